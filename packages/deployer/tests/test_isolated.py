"""Programs in environments of their own; uv is a script here that runs them with this Python."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from wf_deployer.backends import isolated
from wf_deployer.backends.isolated import IsolatedProgram, LateError, ProgramError
from wf_deployer.errors import CommandError, CommandRequestError

SOURCE = """
import os, sys, time

class TokenError(ValueError):
    pass

def answers(request):
    print("printed")
    print("to stderr", file=sys.stderr)
    if request == "raise":
        raise TokenError("no token\\nhf_abcdefghijklmnopqrstuvwxyz \\x1b[2J")
    if request == "end":
        sys.exit(0)
    if request == "die":
        sys.stderr.write("a library's last words\\n")
        os._exit(7)
    if request == "wait":
        yield os.getpid()
        time.sleep(60)
    yield request
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IsolatedProgram:
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\nwhile [ "$1" != python ]; do shift; done; shift\n'
        f'exec {sys.executable} "$@"\n'
    )
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uv.parent}:{os.environ['PATH']}")
    path = tmp_path / "program.py"
    path.write_text(SOURCE)
    return IsolatedProgram("some>=1,<2", path)


def test_what_is_printed_is_no_answer(program: IsolatedProgram, tmp_path: Path) -> None:
    request = {"text": "ä\n", "number": 1.5, "none": None}
    assert program.ask(request) == request
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.startswith("tool run --isolated")
    assert "--from some>=1,<2 python -u -I" in arguments
    assert "text" not in arguments  # requests may hold secrets


def test_an_exception_is_told_with_its_kinds_in_one_line(
    program: IsolatedProgram, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProgramError) as raised:
        program.ask("raise", shown=True)
    assert capfd.readouterr().err == "printed\nto stderr\n"
    assert "in answers" in raised.value.trace
    assert raised.value.reason == r"no token *** \x1b[2J"
    assert raised.value.kinds[:2] == ["<run_path>.TokenError", "builtins.ValueError"]


def test_a_program_that_dies_is_told_with_what_it_printed(program: IsolatedProgram) -> None:
    with pytest.raises(CommandError, match=r"program\.py ended with exit code 7: .*a library's last words"):
        program.ask("die")


def test_several_requests_have_an_answer_or_an_error_each(
    program: IsolatedProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process; an exception is of its own request, a death of those that follow."""
    started: list[object] = []
    start = isolated._start
    monkeypatch.setattr(isolated, "_start", lambda *given: started.append(given) or start(*given))
    first, error, last = program.ask_each(["a", "raise", {"each": ["b"]}], timeout_s=60)
    assert (first, last) == ("a", {"each": ["b"]})
    assert isinstance(error, ProgramError)
    assert error.kinds[0] == "<run_path>.TokenError"
    assert len(started) == 1
    first, *others = program.ask_each(["a", "die", "b"], timeout_s=60)
    assert first == "a"
    assert ["exit code 7" in str(other) for other in others] == [True, True]
    _, *others = program.ask_each(["a", "end", "b"], timeout_s=60)
    assert [str(other) for other in others] == ["program.py ended without an answer"] * 2
    assert program.ask_each([], timeout_s=60) == []


def test_what_was_answered_in_time_counts(program: IsolatedProgram) -> None:
    first, *others = program.ask_each(["a", "wait", "b"], timeout_s=3)
    assert first == "a"
    assert [type(other) for other in others] == [LateError, LateError]


def test_who_stops_reading_ends_the_program(program: IsolatedProgram) -> None:
    answers = program.stream("wait")
    pid = next(answers)
    started_s = time.monotonic()
    answers.close()  # type: ignore[attr-defined]  # a generator
    assert time.monotonic() - started_s < 5
    assert not Path(f"/proc/{pid}").exists()


def test_a_program_that_takes_too_long_is_ended(program: IsolatedProgram) -> None:
    with pytest.raises(CommandError, match=r"program\.py has not answered within 1 s"):
        program.ask("wait", timeout_s=1)


def test_what_uv_says_is_one_line(program: IsolatedProgram, tmp_path: Path) -> None:
    uv = tmp_path / "bin" / "uv"
    uv.write_text("#!/bin/sh\necho 'error: No solution found\n  cause: because' >&2\nexit 1\n")
    with pytest.raises(CommandRequestError) as raised:
        program.ask("x" * 1_000_000)  # more than a pipe holds
    assert str(raised.value) == "uv cannot give some>=1,<2: No solution found cause: because"


def test_without_uv_it_is_asked_for(program: IsolatedProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CommandRequestError, match="there is no uv on PATH"):
        program.ask(1)
