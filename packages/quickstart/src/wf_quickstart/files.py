"""JSON that a step left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wf_formats.errors import LoadError
from wf_formats.json_file import read_value
from wf_quickstart.errors import QuickstartError


def read_json(path: Path) -> Any:
    """Raises: QuickstartError if the file is missing or no JSON."""
    try:
        return read_value(path)
    except LoadError as error:
        raise QuickstartError(str(error)) from error
