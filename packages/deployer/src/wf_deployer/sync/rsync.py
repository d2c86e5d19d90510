"""rsync: copies the named files, and only those, as they are.

Which files differ is known already (the remote has compared contents), so they are sent whatever times and
sizes say. Owners are those who log in; files appear at the end of a transfer together (--delay-updates).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wf_deployer.errors import CommandError
from wf_deployer.sync.children import child
from wf_deployer.sync.config import Preset
from wf_deployer.sync.remote_program import PARTIAL_FOLDER, raw
from wf_deployer.sync.ssh import lost, quoted, rsync_host, ssh_options
from wf_formats.errors import RequestError
from wf_formats.printable import printable

_OPTIONS = (
    "--archive",
    "--no-owner",
    "--no-group",
    "--omit-dir-times",
    "--ignore-times",
    "--compress",
    "--protect-args",  # names reach the remote rsync without a shell between
    "--from0",
    "--files-from=-",
    f"--partial-dir={PARTIAL_FOLDER}",
    "--delay-updates",
)
_RATE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?[KMGkmg]?")
_SSH_FAILED = 255
_LOST = re.compile(r"Broken pipe|Connection reset|connection unexpectedly closed|connection timed out", re.I)


@dataclass(frozen=True)
class RsyncOptions:
    """Attributes: bwlimit is rsync's (KiB/s, or with a unit); progress shows a line that moves."""

    bwlimit: str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.bwlimit is not None and not _RATE.fullmatch(self.bwlimit):
            raise RequestError(
                f"--bwlimit {printable(self.bwlimit)!r} is not a rate; write 500 for 500 KiB/s, or 2M"
            )

    @property
    def words(self) -> list[str]:
        limit = [] if self.bwlimit is None else [f"--bwlimit={self.bwlimit}"]
        return [*limit, "--info=progress2"] if self.progress else limit


def rsync_command(root: Path, target: str, options: RsyncOptions, shell: str | None = None) -> list[str]:
    """The command line; the list of files goes to its standard input.

    Args:
        target: `host:/folder`, or a local folder.
        shell: What rsync connects with (see `ssh.quoted`).
    """
    connection = [] if shell is None else ["-e", shell]
    return ["rsync", *_OPTIONS, *options.words, *connection, "--", f"{root}/", f"{target}/"]


def file_list(paths: Sequence[str]) -> bytes:
    """Names for --files-from. `./` keeps those that begin with # or - from being taken for something else."""
    return b"".join(b"./" + raw(path) + b"\0" for path in paths)


def send(
    preset: Preset,
    root: Path,
    folder: str,
    paths: Sequence[str],
    options: RsyncOptions,
    pass_fds: Sequence[int] = (),
) -> None:
    """Copies files to the remote.

    Args:
        folder: The whole path of the target folder there.
        pass_fds: Descriptors that rsync holds open as long as it runs: the lock.

    Raises:
        CommandError: the connection was lost, or files could not be sent; with the first reason.
    """
    target = f"{rsync_host(preset.host)}:{folder}"
    command = rsync_command(root, target, options, quoted(ssh_options(preset)))
    out = None if options.progress else subprocess.DEVNULL
    with child(command, out, pass_fds) as process:
        _, said = process.communicate(file_list(paths))
        code = process.wait()
    if code == 0:
        return
    lines = said.decode(errors="replace").splitlines()
    if code == _SSH_FAILED or any(_LOST.search(line) for line in lines):
        raise lost(preset, lines)
    reason = next((line for line in lines if line.strip()), f"rsync ended with exit code {code}")
    raise CommandError(f"{preset.name} ({preset.target}): {printable(reason)}; nothing is lost, run it again")
