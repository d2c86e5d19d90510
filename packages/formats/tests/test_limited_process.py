"""How a limited process came to its end is told as far as it is known."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from wf_formats.limited_process import LimitedProcess, ProcessEndedError

PROGRAM = """
import os, sys
for line in sys.stdin:
    how, number = line.split()
    os._exit(int(number)) if how == "exit" else os.kill(os.getpid(), int(number))
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"kill {signal.SIGSEGV:d}", r"its process ended by signal 11 \(Segmentation fault\)"),
        (f"kill {signal.SIGABRT:d}", r"its process ended by signal 6 \(Aborted\)"),
        (f"kill {signal.SIGRTMIN + 3:d}", r"its process ended by signal 37 \(Real-time signal 3\)"),
        (f"kill {signal.SIGPROF:d}", "it computes for more than 7 s"),
        ("exit 3", r"its process ended by itself \(exit code 3\)"),
    ],
)
def test_an_end_is_told_as_it_was(line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ending_program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = LimitedProcess("ending_program", computing_s=7)
    with pytest.raises(ProcessEndedError, match=f"^{words}$"):
        process.ask(f"{line}\n".encode())
    process.close()
