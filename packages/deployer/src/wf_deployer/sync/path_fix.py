"""`path_fix=FILE:OLD=>NEW`: on the remote, FILE holds the path NEW wherever it holds OLD here.

OLD is replaced where it stands as a whole path or as the beginning of one (`/home/me/a` in `/home/me/a/x`,
not in `/home/me/ab` or `/mnt/home/me/a`), in all places. The remote gets the changed file at once, never
ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wf_formats.errors import RequestError
from wf_formats.printable import printable

_BEFORE = rb"(?:(?<![\w.~/\x80-\xff-])|(?<=://))"
_AFTER = rb"(?![\w\x80-\xff-]|\.\w)"


@dataclass(frozen=True)
class PathFix:
    """Attributes: place is `file:line` of the configuration, for messages."""

    file: str
    old: str
    new: str
    place: str

    def apply(self, content: bytes) -> bytes:
        """Raises: RequestError where OLD is not in it: the line has nothing to do any more."""
        after = b"" if self.old.endswith("/") else _AFTER
        fixed, count = re.subn(
            _BEFORE + re.escape(self.old.encode()) + after, lambda _: self.new.encode(), content
        )
        if count == 0:
            raise RequestError(
                f"{self.place}: path_fix: {printable(self.file)} does not hold the path "
                f"{printable(self.old)!r}; correct the line or remove it"
            )
        return fixed


def parse_path_fix(value: str, place: str) -> PathFix:
    """Raises: RequestError for a malformed value; names it."""
    file, colon, change = value.partition(":")
    old, arrow, new = (part.strip() for part in change.partition("=>"))
    file = file.strip()
    problem = None
    if not colon or not arrow or not file or not old or not new:
        problem = "is not FILE:OLD=>NEW"
    elif "=>" in new:
        problem = "has two =>"
    elif old == new:
        problem = "changes nothing"
    elif file.startswith("/") or any(part in ("", ".", "..") for part in file.split("/")):
        problem = f"names the file {printable(file)!r}, which is not a plain path inside the checkout"
    if problem is not None:
        raise RequestError(
            f"{place}: path_fix={printable(value)!r} {problem}; write for example "
            "path_fix=pyproject.toml:/home/me/libs=>/data/libs"
        )
    return PathFix(file, old, new, place)
