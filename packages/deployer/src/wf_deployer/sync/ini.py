"""The lines of `.sync.conf`: `[section]`, `key=value`, comments with # or ; at the beginning of a line.

configparser knows neither repeated keys nor in which line a value stood, so it is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wf_formats.errors import RequestError
from wf_formats.printable import printable

_SECTION = re.compile(r"\[([A-Za-z0-9][\w.-]*)\]", re.ASCII)
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Line:
    """Attributes: place is `file:line`."""

    key: str
    value: str
    place: str


@dataclass(frozen=True)
class Section:
    """Attributes: place is `file:line` of its head."""

    name: str
    place: str
    lines: list[Line] = field(default_factory=list)


def read_sections(path: Path) -> list[Section]:
    """Raises: RequestError naming file and line: no UTF-8, a line of no kind, a section twice."""
    sections: list[Section] = []
    for place, line in _lines(path):
        if line.startswith("["):
            found = _SECTION.fullmatch(line)
            if found is None:
                raise RequestError(
                    f"{place}: {printable(line)!r} is not [name] with letters, digits, '.', '_' or '-'"
                )
            if any(section.name == found[1] for section in sections):
                raise RequestError(f"{place}: [{found[1]}] is there twice; put its lines under one")
            sections.append(Section(found[1], place))
            continue
        if not sections:
            raise RequestError(f"{place}: {printable(line)!r} stands before any [section]; put one above it")
        sections[-1].lines.append(_line(place, line))
    return sections


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    if path.stat().st_size > _MAX_BYTES:
        raise RequestError(f"{path} has more than {_MAX_BYTES} bytes; it is no .sync.conf")
    for number, data in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        place = f"{path}:{number}"
        try:
            line = data.decode().strip()
        except UnicodeDecodeError as error:
            raise RequestError(f"{place}: {data[:80]!r} is not UTF-8; save the file as UTF-8") from error
        if line and line[0] not in "#;":
            yield place, line


def _line(place: str, line: str) -> Line:
    key, equals, value = (part.strip() for part in line.partition("="))
    if not equals or not key:
        raise RequestError(f"{place}: {printable(line)!r} is neither [section] nor key=value")
    if not value:
        raise RequestError(f"{place}: {printable(key)!r} has no value; give one or remove the line")
    if not value.isprintable():
        raise RequestError(f"{place}: {printable(value)!r} has control characters; remove them")
    if value[0] == value[-1] and value[0] in "\"'":
        raise RequestError(
            f"{place}: {printable(value)!r} has quotes, which would be part of it; remove them"
        )
    return Line(key, value, place)
