"""Sources as the trainer's command line takes them: what the commands print, and what proxies train on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from data_handler.config import TEXT_COLUMN, TextUnit
from wf_formats.overrides import quoted

EXACT_DIGITS = 17
_SHOWN_DIGITS = 4
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = ("true", "false", "null", "nan", "inf", "infinity")


def as_source(
    name: str,
    files: Sequence[Path],
    weight: float,
    text_column: str,
    text_unit: TextUnit = TextUnit.file,
    digits: int = _SHOWN_DIGITS,
) -> str:
    """An entry of `data.sources` for the trainer's command line.

    Args:
        digits: of the weight; EXACT_DIGITS: nothing is rounded.
    """
    paths = [_plain_or_quoted(str(file.absolute())) for file in files]
    location = paths[0] if len(paths) == 1 else f"[{','.join(paths)}]"
    column = "" if text_column == TEXT_COLUMN else f",text_column:{_plain_or_quoted(text_column)}"
    unit = "" if text_unit is TextUnit.file else f",text_unit:{text_unit.value}"
    return (
        f"{{kind:path,name:{_plain_or_quoted(name)},location:{location},weight:{weight:.{digits}g}"
        f"{column}{unit}}}"
    )


def _plain_or_quoted(text: str) -> str:
    """Quotes only where the grammar would read something else."""
    is_plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return text if is_plain else quoted(text)


def as_value(sources: Sequence[str]) -> str:
    """The key with its value."""
    return f"data.sources=[{','.join(sources)}]"


def as_override(sources: Sequence[str]) -> str:
    """What is given to `wf train`, quoted for a shell."""
    return shlex.quote(as_value(sources))
