"""Children that are started again."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wrinklefree_inference.gateway import supervised
from wrinklefree_inference.gateway.child import Child
from wrinklefree_inference.gateway.supervised import ChildFailedError, Supervised


class Script(Supervised):
    """A line of shell; ready when it says so."""

    def __init__(self, script: str) -> None:
        super().__init__("the script", lambda _: None, 0.02)
        self._script = script

    def spawn(self) -> Child:
        return Child(["sh", "-c", self._script], self.tell, os.environ)

    async def until_ready(self, child: Child) -> None:
        await child.first_line() or await child.wait()


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "reason", "code"),
    [
        ("echo 'error: no such model' >&2; exit 2", "no such model", 2),
        (
            "echo first >&2; echo last >&2; exit 4",
            "the script ended with exit code 4 before it was .*: last",
            1,
        ),
        (
            "kill -9 $$",
            r"the script was ended by SIGKILL \(out of memory\?\) before it was ready: it wrote",
            1,
        ),
        ("exit 0", "the script ended with exit code 0 before it was ready: it wrote nothing", 1),
    ],
)
def test_what_never_worked_is_told_in_its_own_words(script: str, reason: str, code: int) -> None:
    with pytest.raises(ChildFailedError, match=f"^{reason}") as raised:
        asyncio.run(Script(script).start())
    assert raised.value.exit_code == code


def test_what_dies_is_started_again_with_a_growing_pause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "LONGEST_PAUSE_S", 0.1)
    starts = tmp_path / "starts"
    # The first works and dies, three do not start, the fifth works.
    child = Script(
        f"echo >>{starts}; n=$(wc -l <{starts}); echo last words $n >&2; "
        "if [ $n = 1 ]; then echo ready; exit 1; elif [ $n -lt 5 ]; then exit 1; fi; echo ready; sleep 60"
    )

    async def main() -> None:
        await child.start()
        keeping = asyncio.ensure_future(child.keep())
        await until(lambda: child.restarts == 1 and child.is_up)
        keeping.cancel()
        await child.stop(0)

    caplog.set_level(logging.INFO)
    asyncio.run(main())
    assert starts.read_text().count("\n") == 5
    first = caplog.records[0]
    assert first.getMessage() == "the script ended with exit code 1; it is started again in 0.02 s"
    assert first.fields["last_lines"] == ["last words 1"]
    tries = [record.getMessage() for record in caplog.records if "did not start" in record.getMessage()]
    assert [line.rpartition("next try in ")[2] for line in tries] == ["0.04 s", "0.08 s", "0.1 s"]
    assert caplog.records[-1].getMessage() == "the script runs again"


def test_one_that_is_cancelled_while_it_starts_is_ended() -> None:
    child = Script("sleep 60")

    async def main() -> None:
        starting = asyncio.ensure_future(child.start())
        await until(lambda: child.pid is not None)
        pid = child.pid
        starting.cancel()
        await asyncio.wait([starting])
        assert child.pid is None
        assert not Path(f"/proc/{pid}").exists()

    asyncio.run(main())
