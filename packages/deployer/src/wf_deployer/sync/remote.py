"""Questions to the remote machine: a program goes over ssh to its python3, a JSON answer comes back."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from importlib.resources import files
from typing import IO, Any

from wf_deployer.errors import CommandError
from wf_deployer.sync.children import child
from wf_deployer.sync.config import Preset
from wf_deployer.sync.ssh import lost, ssh_options
from wf_formats.printable import legible, printable

_BOOTSTRAP = 'import sys;i=sys.stdin.buffer;exec(compile(i.read(int(i.readline())),"gcd","exec"))'
"""Reads the program's size, the program, and leaves the request to it; no shell finds anything in it."""
_NOT_FOUND = 127
_LOST = 255
_KEPT_LINES = 200
_ANSWERS = {
    "look": {"dir", "rsync", "record", "identities", "obstacles"},
    "begin": {"deleted", "kept", "obstacles"},
    "finish": {"wrong"},
    "deps": {"failed", "code"},
}
"""Keys of the answer to each request."""


class Remote:
    """A preset's machine."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset

    def ask(self, what: str, show: Callable[[str], None] | None = None, **values: Any) -> dict[str, Any]:
        """The answer to a request of `remote_program`.

        Args:
            show: Gets each line that the remote writes meanwhile, fit for a terminal.

        Raises:
            CommandError: no connection (with ssh's reason), no python3, or what the remote refuses.
        """
        program = files(__package__).joinpath("remote_program.py").read_bytes()
        request = json.dumps({"ask": what, "dir": self.preset.dir, **values}).encode()
        command = [*ssh_options(self.preset), "--", self.preset.host, f"python3 -Ic '{_BOOTSTRAP}'"]
        lines: list[str] = []
        with child(command, stdout=subprocess.PIPE) as process:
            reader = threading.Thread(target=_read, args=(process.stderr, lines, show))
            reader.start()
            answer = _exchange(process, b"%d\n%b%b" % (len(program), program, request))
            reader.join()
            code = process.wait()
        return self._checked(_ANSWERS[what], answer, lines, code)

    def _checked(self, keys: set[str], answer: bytes, lines: list[str], code: int) -> dict[str, Any]:
        name = f"{self.preset.name} ({self.preset.target})"
        if code == _NOT_FOUND:
            raise CommandError(f"{name} has no python3; install it there (apt-get install python3)")
        if code == _LOST:
            raise lost(self.preset, lines)
        if code != 0:
            reason = lines[-1] if lines else "no reason given"
            raise CommandError(f"{name}: python3 there ended with exit code {code}: {printable(reason)}")
        value = _json(answer)
        if not isinstance(value, dict) or value.keys() not in (keys, {"error"}):
            raise CommandError(
                f"{name}: its shell writes {printable(answer[:80].decode(errors='replace'))!r} before "
                "commands; silence its start files (.bashrc) for shells without a terminal"
            )
        if "error" in value:
            raise CommandError(f"{name}: {printable(str(value['error']))}")
        return value


def _json(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        return None


def _exchange(process: subprocess.Popen[bytes], question: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin as stream:
            stream.write(question)
    except BrokenPipeError:  # ssh has ended; its exit code and words say why
        pass
    return process.stdout.read()


def _read(stream: IO[bytes], lines: list[str], show: Callable[[str], None] | None) -> None:
    for data in stream:
        line = legible(data.decode(errors="replace").rstrip("\r\n"))
        if show is not None:
            show(line)
        lines.append(line)
        del lines[:-_KEPT_LINES]
