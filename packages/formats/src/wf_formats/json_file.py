"""JSON files of a model folder."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from wf_formats.errors import LoadError
from wf_formats.git_lfs import check_no_pointer
from wf_formats.mapping import absence

MAX_BYTES = 1 << 26


def read_json(path: Path, error_type: type[ValueError] = LoadError) -> dict[str, Any]:
    """An object from a file of a model folder.

    Args:
        error_type: what is raised.

    Raises:
        ValueError: of that type; the file is missing, huge, no JSON, or something else than an object.
    """
    if not path.is_file():
        raise error_type(f"{path} {absence(path)}: {path.parent} is not a model folder")
    contents = read_value(path, error_type)
    if not isinstance(contents, dict):
        raise error_type(f"{path} holds a JSON {type(contents).__name__}, not an object")
    return contents


def read_value(path: Path, error_type: type[Exception] = LoadError) -> Any:
    """Any JSON value from a file.

    Args:
        error_type: what is raised.

    Raises:
        Exception: of that type; the file is missing, huge or no JSON.
    """
    if not path.is_file():
        raise error_type(f"{path} {absence(path)}")
    if path.stat().st_size > MAX_BYTES:
        raise error_type(f"{path} has {path.stat().st_size} bytes; allowed are {MAX_BYTES}")
    data = path.read_bytes()
    check_no_pointer(path, data[:64], error_type)
    if data.startswith(codecs.BOM_UTF8):  # which other readers of the file do not take
        raise error_type(f"{path} begins with a byte order mark: save it as UTF-8 without one")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise error_type(f"{path} is damaged: {error}") from error
