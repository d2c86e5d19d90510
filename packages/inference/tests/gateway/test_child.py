"""Child processes: their lines, their end at once, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable

import pytest

from wrinklefree_inference.gateway.child import Child


def run(command: list[str], work: Callable[[Child], Awaitable[object]], has_input: bool = False) -> list[str]:
    """What a child writes besides its first line, while `work` has it."""
    told: list[str] = []

    async def main() -> None:
        child = Child(command, told.append, os.environ, has_input)
        try:
            await work(child)
        finally:
            await child.stop(0)

    asyncio.run(main())
    return told


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_first_line_is_for_who_waits_the_rest_is_told() -> None:
    async def work(child: Child) -> None:
        assert await child.first_line() == "one"
        assert await child.wait() == 3

    script = "echo one; echo two; printf 'three' >&2; exit 3"
    assert sorted(run(["sh", "-c", script], work)) == ["three", "two"]


def test_a_child_without_a_word_has_an_empty_first_line() -> None:
    async def work(child: Child) -> None:
        assert await child.first_line() == ""
        assert await child.wait() == 0

    assert run(["true"], work) == []


def test_lines_of_any_bytes_and_length() -> None:
    script = "import sys; sys.stderr.buffer.write(b'\\xff\\n' + 300_000 * b'x' + b'\\nend\\n')"

    async def work(child: Child) -> None:
        await child.wait()

    told = run([sys.executable, "-S", "-c", script], work)
    assert (told[0], told[-1]) == ("\ufffd", "end")
    assert "".join(told[1:-1]) == 300_000 * "x"
    assert max(map(len, told)) <= 32768


def test_its_end_is_known_at_once_while_another_holds_its_pipes() -> None:
    found: list[int] = []

    async def work(child: Child) -> None:
        found.append(int(await child.first_line()))
        started_s = time.monotonic()
        assert await child.wait() == 7
        assert time.monotonic() - started_s < 5
        assert is_running(found[0])

    run(["sh", "-c", "setsid sleep 60 & echo $!; sleep 0.1; exit 7"], work)
    os.kill(found[0], signal.SIGKILL)


def test_what_it_has_started_ends_with_it() -> None:
    async def work(child: Child) -> None:
        grandchild = int(await child.first_line())
        os.kill(child.pid, signal.SIGKILL)
        assert await child.wait() == -9
        async with asyncio.timeout(10):
            while is_running(grandchild):
                await asyncio.sleep(0.01)

    run(["sh", "-c", "sleep 60 & echo $!; wait"], work)


def test_what_ignores_the_signal_is_killed() -> None:
    async def work(child: Child) -> None:
        await child.first_line()
        await child.stop(0.1)
        assert await child.wait() == -9

    run(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"], work)


def test_the_end_of_its_input_ends_it() -> None:
    async def work(child: Child) -> None:
        child.write("hello")
        assert await child.first_line() == "hello"

    assert run(["cat"], work, has_input=True) == []


def test_a_program_that_is_not_there() -> None:
    async def main() -> None:
        Child(["/nowhere/program"], print, {})

    with pytest.raises(FileNotFoundError):
        asyncio.run(main())
