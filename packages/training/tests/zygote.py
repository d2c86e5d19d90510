"""Forks a child per run of the command line, so that runs which get killed do not import torch anew.

The pytest process itself must not fork: other tests leave threads there (OpenMP, servers), and a
lock that one of them holds stays locked in the child. This process has one thread, checked before
every fork. Requests are JSON lines on stdin, {"arguments": [...], "log": file, "before": null or
[test module's path, function], "ranks": number}; `before` is called in the child first. Several ranks are
children as torchrun starts them; when one has failed the others get a while to end. The answer is a line
with the exit code of each, or minus the signal that ended it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import _dynamo  # sharded tensors import it, for seconds
from torch.distributed import fsdp
from transformers.models.bitnet import modeling_bitnet
from transformers.models.llama import modeling_llama

from wrinklefree import application, auto_setup
from wrinklefree.stages import conversion, fit
from wrinklefree.train import main

sys.path.append(str(Path(__file__).parents[3] / "tests" / "helpers"))  # for the test modules
_WHILE_S = 20.0
IMPORTED_FOR_THE_CHILDREN = (
    _dynamo,
    fsdp,
    modeling_bitnet,
    modeling_llama,
    application,
    auto_setup,
    conversion,
    fit,
)


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


def _environments(num_ranks: int) -> list[dict[str, str]]:
    """What torchrun gives each rank; nothing for one alone."""
    if num_ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    size = str(num_ranks)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    shared |= {"TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]


def _ended(pids: list[int]) -> list[int]:
    """Exit codes, in order."""
    codes: dict[int, int] = {}
    end_s: float | None = None
    while len(codes) < len(pids):
        for pid in set(pids) - codes.keys():
            found, status = os.waitpid(pid, 0 if len(pids) == 1 else os.WNOHANG)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif end_s is not None and time.monotonic() > end_s:
                os.kill(pid, signal.SIGKILL)
        if any(codes.values()) and end_s is None:
            end_s = time.monotonic() + _WHILE_S
        time.sleep(0 if len(pids) == 1 else 0.01)
    return [codes[pid] for pid in pids]


def serve() -> None:
    """Until stdin ends."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        assert not _other_threads(), "a process with threads must not fork"
        pids = []
        for environment in _environments(request["ranks"]):
            pid = os.fork()
            if pid == 0:
                os.environ.update(environment)
                _run_and_end(request)
            pids.append(pid)
        sys.stdout.write(f"{json.dumps(_ended(pids))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
