"""Child processes that do not outlive an interrupted command."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from wf_deployer.errors import CommandRequestError

_GRACE_S = 5.0


@contextmanager
def child(
    command: Sequence[str], stdout: int | None, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a program with pipes for standard input and error; what still runs at the end is stopped.

    Raises:
        CommandRequestError: the program is not installed.
    """
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
        )
    except FileNotFoundError as error:
        raise CommandRequestError(
            f"{command[0]} is not installed here: install your system's package of it"
        ) from error
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
