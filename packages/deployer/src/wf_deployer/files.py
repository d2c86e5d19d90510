"""JSON files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from wf_deployer.errors import CommandError


def write_text(target: Path, text: str) -> None:
    """Writes by temporary file, fsync and rename."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Raises: ValueError for NaN and infinities, which JSON does not have."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises: CommandError if the file is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CommandError(f"{path} is missing") from error
    except ValueError as error:
        raise CommandError(f"{path} is damaged ({error})") from error


def last_lines(path: Path, count: int, window_bytes: int = 65536) -> list[str]:
    """The last lines of a text file; a progress bar's carriage returns count as line ends."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - window_bytes))
        text = file.read().decode("utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-count:]
