"""Files of requirements as pip reads them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from wf_deployer.doctor.files import FileError, read_text
from wf_deployer.doctor.repository.declared import Declarations, Kind
from wf_formats.secrets import redacted

_DEVELOPMENT = re.compile(r"dev|test|doc|lint|optional|extra", re.IGNORECASE)
_OPTION = re.compile(r"(--[a-z][\w-]*|-[a-zA-Z])[ =]*(.*)", re.DOTALL)
_OF_A_LINE = re.compile(r"\s--(?:hash|config-settings?|global-option|install-option)[ =].*")
_MOST_LINES = 20_000


def read_requirements(root: Path, file: Path, into: Declarations, seen: set[Path] | None = None) -> None:
    """Adds a file's requirements, and those of the files that it names below `root`.

    Args:
        file: relative to `root`.
        seen: files that are read already: they may name each other.
    """
    seen = set() if seen is None else seen
    if file in seen or file in into.files:
        return
    seen.add(file)
    try:
        text = read_text(root / file)
    except FileError as error:
        into.problems.append(str(error))
        return
    into.files.append(file)
    kind = Kind.optional if _DEVELOPMENT.search(file.name) else Kind.needed
    lines = re.sub(r"\\\r?\n", " ", text).splitlines()
    if len(lines) > _MOST_LINES:
        into.problems.append(f"{file} has {len(lines)} lines: only {_MOST_LINES} are read")
    for line in lines[:_MOST_LINES]:
        plain = _OF_A_LINE.sub("", re.sub(r"(^|\s)#.*", "", line)).strip()
        if not plain:
            continue
        if plain.startswith("-"):
            _option(root, file, plain, into, seen, kind)
        else:
            into.add(plain, file, kind)


def _option(root: Path, file: Path, line: str, into: Declarations, seen: set[Path], kind: Kind) -> None:
    match = _OPTION.match(line)
    if match is None:
        into.problems.append(f"{file}: {redacted(line)!r} is no option of pip's")
        return
    option, value = match[1], match[2].strip()
    if option in ("-r", "--requirement", "-c", "--constraint"):
        named = _inside(root, (root / file).parent / value)
        if named is None:
            into.problems.append(f"{file}: {value!r} lies outside of the repository and is not read")
        else:
            read_requirements(root, named, into, seen)
    elif option in ("-e", "--editable"):
        into.add(value, file, kind)
    elif option in ("-i", "--index-url", "--extra-index-url", "-f", "--find-links"):
        into.indexes.append((file, f"{option} {redacted(value)}"))


def _inside(root: Path, path: Path) -> Path | None:
    """Relative to the repository, if it lies there, links followed."""
    if "\0" in str(path):
        return None
    real, top = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    return real.relative_to(top) if real.is_relative_to(top) else None
