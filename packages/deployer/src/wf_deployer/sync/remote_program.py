"""What `gcd` runs on the remote machine, and what a file's identity is on both.

The text of this module goes over ssh to the remote's `python3` (3.7 or newer) and needs nothing else there,
so it imports the standard library alone. It reads one JSON request from its standard input and writes one
JSON answer; uv's words go to its standard error:

    look     identities of the named paths, what is in their way, and the record; changes nothing
    begin    makes the folder, drops half files that nobody will complete, says in the record that a sync is
             on its way, deletes; then what is in the way of what will be sent
    finish   writes the files that differ from the checkout's (path_fix), compares all that was sent, and
             completes the record
    deps     `uv sync` in projects

Names are text with surrogate escapes (PEP 383) for bytes that are no UTF-8. No name leads out of the folder:
`..` is refused and links on the way are not followed.

The record `.wf-sync.json` stands in the target folder: {"format", "nonce", "checksum", "deps"}. Its nonce is
new after each sync, and null while one is on its way; a machine that was made anew has no record.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from typing import Any

RECORD = ".wf-sync.json"
PARTIAL_FOLDER = ".wf-sync-partial"
"""Where rsync keeps what has arrived of a file, beside it."""
FORMAT = 1
_MAX_RECORD_BYTES = 1 << 20
_UV_FOLDERS = ("~/.local/bin", "~/.cargo/bin")
"""Where uv's installer puts it; commands over ssh do not read the profile that adds them to PATH."""


class RefusedError(Exception):
    """What the user can mend; the message is one line."""


def raw(path: str) -> bytes:
    """A name as the file system has it."""
    return path.encode("utf-8", "surrogateescape")


def text(path: bytes) -> str:
    """The inverse of `raw`."""
    return path.decode("utf-8", "surrogateescape")


class Tree:
    """Paths below a folder, of which no part is followed through a link."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._real: dict[bytes, bool] = {b"": True}

    def at(self, path: str) -> bytes:
        """The whole path. Raises: RefusedError for one that is absolute or has an empty part, `.` or `..`."""
        parts = raw(path).split(b"/")
        if b"\0" in raw(path) or any(part in (b"", b".", b"..") for part in parts):
            raise RefusedError(f"{path!r} does not stay in the folder")
        return os.path.join(self.root, *parts)

    def is_reached(self, path: str) -> bool:
        """Whether all folders on the way are folders, not links."""
        return self._is_real(os.path.dirname(raw(path)))

    def obstacle(self, path: str) -> str | None:
        """The first part of the way to a path that is there and is no folder: rsync would replace it."""
        self.at(path)  # stays in the folder
        folder = os.path.dirname(raw(path))
        if self._is_real(folder):
            return None
        above = self.obstacle(text(folder))
        if above is None and os.path.lexists(os.path.join(self.root, folder)):
            return text(folder)
        return above

    def identity(self, path: str) -> str | None:
        """`f` (file), `x` (executable file) or `l` (link), and the SHA-256 of content or target; None for
        nothing and for anything else, a path through a link too."""
        mode = self.mode(path)
        try:
            if stat.S_ISLNK(mode):
                return link_identity(os.readlink(self.at(path)))
            return _file_identity(self.at(path)) if stat.S_ISREG(mode) else None
        except FileNotFoundError:  # it has just gone
            return None

    def mode(self, path: str) -> int:
        """Type and permissions, of a link itself; 0 for nothing, and for a path through a link."""
        place = self.at(path)
        try:
            return os.lstat(place).st_mode if self.is_reached(path) else 0
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def _is_real(self, folder: bytes) -> bool:
        if folder not in self._real:
            above = self._is_real(os.path.dirname(folder))
            self._real[folder] = above and _is_folder(os.path.join(self.root, folder))
        return self._real[folder]


def file_identity(content: bytes, executable: bool) -> str:
    """Of a regular file."""
    return ("x" if executable else "f") + hashlib.sha256(content).hexdigest()


def link_identity(target: bytes) -> str:
    """Of a symbolic link."""
    return "l" + hashlib.sha256(target).hexdigest()


def checksum(identities: dict[str, str]) -> str:
    """SHA-256 over the paths in the order of their bytes: path, NUL, identity, NUL."""
    digest = hashlib.sha256()
    for path in sorted(identities, key=raw):
        digest.update(raw(path) + b"\0" + identities[path].encode() + b"\0")
    return digest.hexdigest()


def _file_identity(place: bytes) -> str:
    digest = hashlib.sha256()
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        executable = os.fstat(descriptor).st_mode & 0o100
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return ("x" if executable else "f") + digest.hexdigest()


def _is_folder(place: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(place).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def target_folder(name: str) -> bytes:
    """The whole path of a preset's `dir`; relative ones begin at home. Raises: RefusedError."""
    expanded = os.path.expanduser(name)
    if expanded.startswith("~"):
        raise RefusedError(f"dir {name!r} names no user of that machine")
    folder = os.path.realpath(os.path.join(os.path.expanduser("~"), expanded))
    if folder == "/":
        raise RefusedError(f"dir {name!r} is the root of that machine; name a folder for the checkout")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise RefusedError(f"dir {name!r} is a file on that machine; name a folder")
    return raw(folder)


def read_record(root: bytes) -> dict[str, Any] | None:
    """The record; None where there is none, or something that we did not write."""
    place = os.path.join(root, raw(RECORD))
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            record = json.loads(file.read(_MAX_RECORD_BYTES).decode())
        except (OSError, ValueError):
            return None
    if not isinstance(record, dict) or record.keys() != {"format", "nonce", "checksum", "deps"}:
        return None
    return record if record["format"] == FORMAT and isinstance(record["deps"], dict) else None


def write_record(root: bytes, nonce: str | None, checksum: str | None, deps: dict[str, str]) -> None:
    """By a temporary file and a rename."""
    record = {"format": FORMAT, "nonce": nonce, "checksum": checksum, "deps": deps}
    _replace(os.path.join(root, raw(RECORD)), json.dumps(record, indent=2).encode() + b"\n", 0o644)


def _replace(place: bytes, content: bytes, mode: int) -> None:
    temporary = place + b".wf-sync-tmp"
    if os.path.lexists(temporary):  # of a sync that was killed
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(temporary, place)
    except OSError as error:
        os.unlink(temporary)
        error.filename = place
        raise


def _obstacles(tree: Tree, paths: list[str]) -> dict[str, str]:
    """What is in the way of paths, and what it is, in words."""
    found = {tree.obstacle(path) for path in paths}
    return {path: _kind(tree.at(path)) for path in found if path is not None}


def _kind(place: bytes) -> str:
    mode = os.lstat(place).st_mode
    if stat.S_ISLNK(mode):
        return "a link to " + text(os.readlink(place))
    return "a file" if stat.S_ISREG(mode) else "neither folder nor file"


def look(request: dict[str, Any]) -> dict[str, Any]:
    """{"dir", "rsync", "record", "identities", "obstacles"}."""
    root = target_folder(request["dir"])
    tree = Tree(root)
    return {
        "obstacles": _obstacles(tree, request["paths"]),
        "dir": text(root),
        "rsync": shutil.which("rsync") is not None,
        "record": read_record(root),
        "identities": {path: tree.identity(path) for path in request["paths"]},
    }


def begin(request: dict[str, Any]) -> dict[str, Any]:
    """{"deleted": [...], "kept": [...], "obstacles"}; a file is deleted only if it is one of those that were
    sent."""
    root = target_folder(request["dir"])
    os.makedirs(root, exist_ok=True)
    tree = Tree(root)
    for path in request["abandoned"]:
        _drop_partial(tree, path)
    write_record(root, None, None, (read_record(root) or {"deps": {}})["deps"])
    deleted, kept = [], []
    for path, ours in request["delete"].items():
        identity = tree.identity(path)
        if identity in ours:
            os.unlink(tree.at(path))
            _remove_empty_folders(root, os.path.dirname(raw(path)))
            deleted.append(path)
        elif identity is not None:
            kept.append(path)
    return {"deleted": deleted, "kept": kept, "obstacles": _obstacles(Tree(root), request["send"])}


def _drop_partial(tree: Tree, path: str) -> None:
    folder, _, name = path.rpartition("/")
    partial = f"{folder}/{PARTIAL_FOLDER}/{name}".lstrip("/")
    if tree.identity(partial) is not None:
        os.unlink(tree.at(partial))
        _remove_empty_folders(tree.root, os.path.dirname(raw(partial)))


def _remove_empty_folders(root: bytes, folder: bytes) -> None:
    while folder:
        try:
            os.rmdir(os.path.join(root, folder))
        except OSError:  # others' files are in it
            return
        folder = os.path.dirname(folder)


def finish(request: dict[str, Any]) -> dict[str, Any]:
    """{"wrong": paths that are not what was sent}; the record is completed only if there is none."""
    root = target_folder(request["dir"])
    tree = Tree(root)
    for path, file in request["write"].items():
        place = tree.at(path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if not tree.is_reached(path):
            raise RefusedError(f"a folder of {path!r} is a link on that machine; remove the link there")
        _replace(place, base64.b64decode(file["content"]), file["mode"])
    wrong = [path for path, identity in request["expected"].items() if tree.identity(path) != identity]
    if not wrong:
        deps = (read_record(root) or {"deps": {}})["deps"]
        write_record(root, request["nonce"], request["checksum"], deps)
    return {"wrong": wrong}


def deps(request: dict[str, Any]) -> dict[str, Any]:
    """{"failed": project or None, "code"}; what succeeded is noted in the record."""
    root = target_folder(request["dir"])
    folders = [os.environ.get("PATH", os.defpath), *map(os.path.expanduser, _UV_FOLDERS)]
    uv = shutil.which("uv", path=os.pathsep.join(folders))
    if uv is None:
        raise RefusedError("uv is neither on PATH there nor in ~/.local/bin; install it, or use --skip-deps")
    for project, digest in request["projects"].items():
        place = os.path.join(root, raw(project))
        done = subprocess.run([uv, "sync"], cwd=place, stdin=subprocess.DEVNULL, stdout=2)
        if done.returncode != 0:
            return {"failed": project, "code": done.returncode}
        record = read_record(root)
        if record is not None:
            write_record(root, record["nonce"], record["checksum"], dict(record["deps"], **{project: digest}))
    return {"failed": None, "code": 0}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request, or {"error": one line}."""
    try:
        return {"look": look, "begin": begin, "finish": finish, "deps": deps}[request["ask"]](request)
    except RefusedError as error:
        return {"error": str(error)}
    except OSError as error:
        name = error.filename if error.filename is not None else ""
        shown = text(name) if isinstance(name, bytes) else str(name)
        return {"error": (f"{shown}: " if shown else "") + (error.strerror or str(error))}


def main() -> None:
    """One request, one answer."""
    request = json.loads(sys.stdin.buffer.read().decode())
    sys.stdout.write(json.dumps(answer(request)))


if __name__ == "__main__":
    main()
