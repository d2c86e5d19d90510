"""What the sub-commands share: their options, and how they show results."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_handler.config import TEXT_COLUMN, TextUnit

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
_UNBROKEN = 10_000
"""Columns of what goes into a file or a pipe."""


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
