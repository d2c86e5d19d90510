"""What the sub-commands share: their options, and the sources that a training takes."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_handler.config import TEXT_COLUMN, TextUnit
from wf_formats.overrides import quoted

if TYPE_CHECKING:
    from rich.table import Table

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILES",
        help="FILE or NAME=FILE, patterns too: .jsonl, .jsonl.gz, .parquet, .txt. Without a NAME a file is "
        "called by its own.",
        show_default=False,
    ),
]
TextColumn = Annotated[str, typer.Option(help="Field with the text.")]
Unit = Annotated[TextUnit, typer.Option("--text-unit", help="What a document of a .txt file is.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run wrote there.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of a table.")]
DEFAULT_TEXT_COLUMN, DEFAULT_UNIT = TEXT_COLUMN, TextUnit.file
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = ("true", "false", "null", "nan", "inf", "infinity")
_UNBROKEN = 10_000
"""Columns of what goes into a file or a pipe."""


def as_source(
    name: str,
    files: Sequence[Path],
    weight: float,
    text_column: str,
    text_unit: TextUnit = DEFAULT_UNIT,
) -> str:
    """An entry of `data.sources` for the trainer's command line."""
    paths = [_plain_or_quoted(str(file.absolute())) for file in files]
    location = paths[0] if len(paths) == 1 else f"[{','.join(paths)}]"
    column = "" if text_column == TEXT_COLUMN else f",text_column:{_plain_or_quoted(text_column)}"
    unit = "" if text_unit is DEFAULT_UNIT else f",text_unit:{text_unit.value}"
    return (
        f"{{kind:path,name:{_plain_or_quoted(name)},location:{location},weight:{weight:.4g}{column}{unit}}}"
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


def say(text: str = "") -> None:
    """A line of the result; in names of files what is no text is written out."""
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")


def say_json(value: Any) -> None:
    say(json.dumps(value, indent=2, allow_nan=False))


def show(table: Table) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _UNBROKEN, highlight=False).print(table)


def new_table(*columns: str) -> Table:
    """The first column is text, the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table
