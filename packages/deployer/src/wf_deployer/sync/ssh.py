"""OpenSSH: one connection for all commands of a minute, no questions, and ssh's own reason when it fails.

Commands share a connection (ControlMaster=auto) that ends 30 s after the last of them. Its socket is
`%C`, a hash of user, host and port, in a folder of the user alone; the key is part of the name, since ssh
would reuse a connection that another key opened.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from wf_deployer.errors import CommandError
from wf_deployer.sync.config import Preset
from wf_formats.printable import printable

MAX_CONTROL_PATH_CHARS = 100
"""Sockets take 107; ssh adds 17 of its own while it makes one."""
_PERCENT_C_CHARS = 40
_OWN_CHARS = 17
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",  # no banners among the reasons
    "RemoteCommand": "none",
    "ClearAllForwardings": "yes",
    "ControlMaster": "auto",
    "ControlPersist": "30",
}
_HINTS = {
    "Host key verification failed": "connect once by hand, `ssh {host}`, and compare the key",
    "Permission denied": "check user and key; try `ssh {host}`",
    "Could not resolve": "check host",
    "Connection refused": "check host and port, and that sshd runs there",
    "timed out": "check host and port, and that the machine is on",
    "bad permissions": "chmod 600 the key file",
}


def ssh_options(preset: Preset) -> list[str]:
    """`ssh` and its options, host and command left out. Raises: CommandError: see `control_folder`."""
    options = _OPTIONS | {"ControlPath": str(control_path(preset))}
    words = ["ssh", "-T", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    if preset.port is not None:
        words += ["-p", str(preset.port)]
    if preset.key is not None:
        words += ["-o", "IdentitiesOnly=yes", "-i", str(preset.key)]
    return words


def control_path(preset: Preset) -> Path:
    """Where the shared connection's socket is, with ssh's %C in it."""
    key = hashlib.sha256(os.fsencode(preset.key or "")).hexdigest()[:8]
    return control_folder() / f"{key}-%C"


def control_folder() -> Path:
    """A folder that is this user's alone: in $XDG_RUNTIME_DIR, else in /tmp.

    Raises:
        CommandError: somebody else has made it, or may write there.
    """
    name = f"wf-sync-{os.getuid()}"
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / name
    most_chars = MAX_CONTROL_PATH_CHARS - _PERCENT_C_CHARS - _OWN_CHARS - len("/12345678-")
    is_plain = re.fullmatch(r"/[\w./-]+", str(folder), re.ASCII) and folder.parent.is_dir()
    if not is_plain or len(str(folder)) > most_chars:
        folder = Path("/tmp") / name
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise CommandError(f"{folder} is not a folder of yours alone (chmod 700); remove it")
    return folder


def quoted(words: Sequence[str]) -> str:
    """A command for rsync's -e, which splits at spaces and takes a doubled quote for one."""
    return " ".join("'" + word.replace("'", "''") + "'" for word in words)


def rsync_host(host: str) -> str:
    """The host as rsync takes it: IPv6 addresses in brackets."""
    user, at, name = host.rpartition("@")
    return f"{user}{at}[{name}]" if ":" in name else host


def lost(preset: Preset, lines: Sequence[str]) -> CommandError:
    """The error of a connection that could not be made or broke.

    Args:
        lines: Standard error of ssh, or of rsync with ssh's in it.
    """
    said = [line.strip() for line in lines if line.strip() and not line.startswith("rsync")]
    reason = said[-1] if said else "the connection was lost; ssh gives no reason"
    hint = next((text for words, text in _HINTS.items() if any(words in line for line in said)), None)
    fix = "nothing is lost, run it again" if hint is None else hint.format(host=preset.host)
    return CommandError(f"{preset.name} ({preset.target}): {printable(reason)}; {fix}")
