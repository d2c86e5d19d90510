"""Forks a child per run of the command line, so that runs which get killed do not import torch anew.

The pytest process itself must not fork: other tests leave threads there (OpenMP, servers), and a
lock that one of them holds stays locked in the child. This process has one thread, checked before
every fork. Requests are JSON lines on stdin, {"arguments": [...], "log": file, "before": null or
[test module's path, function]}; `before` is called in the child first. The answer is a line with
the exit code, or minus the signal that ended the child.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers.models.bitnet import modeling_bitnet
from transformers.models.llama import modeling_llama

from wrinklefree import application, auto_setup
from wrinklefree.stages import conversion, fit
from wrinklefree.train import main

IMPORTED_FOR_THE_CHILDREN = (modeling_bitnet, modeling_llama, application, auto_setup, conversion, fit)


def _call(path: str, function: str) -> None:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, function)()


def _run(request: dict[str, Any]) -> int:
    """The child's work; its output goes into the log, since stdout carries the answers."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    if request["before"] is not None:
        _call(*request["before"])
    return main(request["arguments"])


def _run_and_end(request: dict[str, Any]) -> NoReturn:
    """Ends without tearing the interpreter down, which takes as long as the run."""
    code = 99
    try:
        code = _run(request)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _other_threads() -> list[str]:
    """Names of the threads besides this one and that of Arrow's allocator, which survives forks."""
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    names = [(task / "comm").read_text().strip() for task in tasks]
    return [name for name in names if name != "jemalloc_bg_thd"]


def serve() -> None:
    """Until stdin ends."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        assert not _other_threads(), "a process with threads must not fork"
        pid = os.fork()
        if pid == 0:
            _run_and_end(json.loads(line))
        status = os.waitpid(pid, 0)[1]
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
