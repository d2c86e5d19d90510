"""Runs a job's command and records how it ends: `python -m ...local.supervise FOLDER TOKEN`.

The command is a JSON list on standard input, since the record has it without its secrets.
It outlives SIGTERM and SIGINT, which `wf cancel` sends to the whole process group: the job stops in
its own time (training writes a checkpoint first) and the supervisor records that it was cancelled.
The token on the command line is what `wf cancel` recognises it by.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from wf_deployer.backends.local.identity import identify
from wf_deployer.backends.local.record import LocalJob
from wf_deployer.backends.record import TOKEN_VARIABLE, Exit


def supervise(folder: Path, command: list[str]) -> int:
    """Runs the command of the job of `folder`; returns its exit code."""
    job = LocalJob(folder)
    record = job.record
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    me = identify(os.getpid())
    job.write_processes(me, None)
    environment = os.environ | {TOKEN_VARIABLE: record.token}
    try:
        child = subprocess.Popen(command, cwd=record.cwd, env=environment, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error}\n")
        job.write_exit(Exit(127, False, time.time()))
        return 127
    job.write_processes(me, identify(child.pid))
    if signals:  # it came before there was a child to receive it
        child.terminate()
    returncode = child.wait()
    job.write_exit(Exit(returncode, bool(signals), time.time()))
    return returncode if returncode >= 0 else 128 - returncode


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1]), json.load(sys.stdin)))
