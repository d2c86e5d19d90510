"""Moving results out of the way instead of removing them: somebody's files may have got among ours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path


def move_aside(folder: Path, parts: Sequence[Path] = ()) -> Path:
    """Renames a folder to `<name>.replaced-<time>` beside it, or parts of it into `replaced-<time>` in it.

    Its caller holds the folder's lock. What was moved within the same second gets a number.

    Args:
        parts: paths below the folder, which keep their places in the new one; none: the whole folder.

    Returns:
        where it is now.
    """
    if not parts:
        return folder.rename(_free(folder.with_name(f"{folder.name}.{_now()}")))
    aside = _free(folder / _now())
    for part in parts:
        target = aside / part.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)
    return aside


def _now() -> str:
    return f"replaced-{time.strftime('%Y%m%d-%H%M%S')}"


def _free(path: Path) -> Path:
    number, candidate = 0, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
