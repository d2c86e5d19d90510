"""A file of JSON lines that is only ever appended to, each with the SHA-256 of the line before it.

    {"event": "started", "number": 1, "previous": null, "time": "2026-11-27T09:00:00.000000+00:00", ...}

A line is on the disk (fsync) before what it tells of goes on. Changing, removing or moving a line breaks the
chain behind it (`Trail.problems`); who can write the file can also write all of it anew, and lines at the end
can be cut off: the hash of the last line (`Trail.head`), kept elsewhere, shows that. One process writes at a
time (the run's lock).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from wf_formats.atomic import sync
from wf_formats.errors import LoadError
from wf_formats.json_file import read_json
from wf_formats.targets import check_file

AUDIT_FILE = "audit.jsonl"
SUMMARY_KEY = "audit_sha256"
"""Of summary.json: the hash of the last line when it was written."""
LOST = "lost"
"""Of an event: the hash of a line that was missing when it was added."""
_SUMMARY_FILE = "summary.json"
_MAX_BYTES = 1 << 26
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Trail:
    """lines: without their ends; rest: what follows the last end, of a process that was killed as it
    wrote."""

    lines: list[bytes]
    rest: bytes = b""

    @property
    def head(self) -> str | None:
        """Hash of the last line; None: there is none."""
        return digest(self.lines[-1]) if self.lines else None

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """What the lines hold; an empty mapping for one that holds no object."""
        return [_event(line) for line in self.lines]

    def problems(self) -> Iterator[str]:
        """What shows that the file was changed by something else than `append`; nothing if it was not."""
        before: str | None = None
        for number, (line, event) in enumerate(zip(self.lines, self.events, strict=True), 1):
            if not event:
                yield f"line {number} is no JSON object"
            elif event.get("previous") != before:
                yield f"line {number} does not follow from line {number - 1}: one was changed or removed"
            elif event.get("number") != number:
                yield f"line {number} says that it is line {event.get('number')!r:.40}"
            if LOST in event:
                yield f"before line {number} was added lines were changed or cut off at the end"
            before = digest(line)
        if self.rest:
            yield f"the last line is not whole ({len(self.rest)} bytes): the next start cuts it off"


def digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def read_trail(folder: Path) -> Trail:
    """The log of a run folder; empty where there is none. Raises: LoadError for a file that is far too
    large."""
    path = folder / AUDIT_FILE
    if not path.exists():
        return Trail([])
    if path.stat().st_size > _MAX_BYTES:
        raise LoadError(f"{path} has {path.stat().st_size} bytes; allowed are {_MAX_BYTES}")
    return _trail(path.read_bytes())


def summary_head(folder: Path) -> str | None:
    """The last line that the run's summary.json has seen; None: it has seen none. Raises: LoadError."""
    path = folder / _SUMMARY_FILE
    value = read_json(path, LoadError).get(SUMMARY_KEY) if path.is_file() else None
    return None if value is None else str(value)


def lost_line(folder: Path) -> str | None:
    """The hash of a line that summary.json has seen and that is not there any more; None: none is missing."""
    seen = summary_head(folder)
    return None if seen in {None, *map(digest, read_trail(folder).lines)} else seen


def _trail(data: bytes) -> Trail:
    *lines, rest = data.split(b"\n")
    return Trail(lines, rest)


def append(folder: Path, event: str, details: Mapping[str, Any]) -> str:
    """Adds a line and returns its hash. What an earlier process left unfinished is cut off, and the line says
    so.

    Raises: OSError naming the file, RequestError where something else is there; then nothing was added.
    """
    path = folder / AUDIT_FILE
    check_file(path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, _FLAGS, 0o666)
        try:
            return _append(descriptor, event, details)
        finally:
            os.close(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        sync(folder)


def _append(descriptor: int, event: str, details: Mapping[str, Any]) -> str:
    trail = _trail(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    if trail.rest:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(trail.rest))
        details = {**details, "cut_off": {"bytes": len(trail.rest), "sha256": digest(trail.rest)}}
    time = datetime.now(UTC).isoformat(timespec="microseconds")
    own = {"event": event, "number": len(trail.lines) + 1, "previous": trail.head, "time": time}
    line = json.dumps({**details, **own}, sort_keys=True, allow_nan=False).encode()
    end = os.fstat(descriptor).st_size
    try:
        _write(descriptor, line + b"\n")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise
    return digest(line)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
