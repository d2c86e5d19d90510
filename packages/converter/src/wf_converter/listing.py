"""Command line: the exports here, and what serves them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from wf_converter.command import run
from wf_formats.boundary import explained
from wf_formats.errors import UserError, reason_of
from wf_formats.exports import NONE_HERE, find_exports, record_file, size_bytes
from wf_formats.file_names import CARD_FILE
from wf_formats.model_card import MAX_CARD_BYTES

_UNBROKEN = 10_000
"""Columns of what goes into a file or a pipe: a model stays one line."""


@dataclass(frozen=True)
class ListedModel:
    """A row.

    Attributes:
        changed: UTC.
        base_model: of the card beside it; None where there is none, or it does not say.
        served_by: engines of `wf serve --engine`; none where its values have to be converted first.
        problem: what is wrong with it, without its path.
    """

    path: str
    kind: str
    size_bytes: int
    changed: str
    base_model: str | None
    served_by: list[str]
    problem: str | None = None


def list_models(root: Path = Path()) -> list[ListedModel]:
    """The newest first; one that cannot be read is a row that says why."""
    return [_listed(path) for path in find_exports(root)]


def _listed(path: Path) -> ListedModel:
    from wf_converter.inspect import DIFFUSION, inspect_model

    kind, engines, problem = "GGUF file" if path.is_file() else "exported folder", [], None
    try:
        found = inspect_model(path)
    except UserError as error:
        problem = reason_of(error, path)
    except OSError as error:
        problem = reason_of(explained(error), path)
    else:
        is_diffusion = found.facts[DIFFUSION] is not None
        kind = f"{found.kind}, {DIFFUSION}" if is_diffusion else found.kind
        engines = ["native"] if found.native_engine.startswith("yes") else []
        engines += ["llamacpp"] if path.is_file() and not is_diffusion else []
    return ListedModel(
        str(path),
        kind,
        size_bytes(path),
        datetime.fromtimestamp(record_file(path).stat().st_mtime, UTC).isoformat(timespec="seconds"),
        _base_model(path),
        engines,
        problem,
    )


def _base_model(path: Path) -> str | None:
    from wf_converter.base_model import front_matter_of
    from wf_converter.card import card_path

    for card in (card_path(path), path.parent / CARD_FILE):
        if card.is_file() and card.stat().st_size <= MAX_CARD_BYTES:
            base = front_matter_of(card.read_text("utf-8", errors="replace")).get("base_model")
            first = base[0] if isinstance(base, list) and base else base
            return first if isinstance(first, str) else None
    return None


def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list instead of a table.")] = False,
) -> None:
    """Show the exports in this folder and in outputs/: path, kind, size, date, base model, engines.

    Without --model, wf chat, wf run and wf serve take the first.

    Example: wf list --json
    """
    rows = list_models()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    elif rows:
        _show(rows)
    else:
        typer.echo(NONE_HERE)


def _show(rows: list[ListedModel]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from wf_formats.printable import printable

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "kind", "MB", "changed", "base model", "served by"):
        table.add_column(column, justify="right" if column == "MB" else "left")
    for row in rows:
        cells: tuple[Any, ...] = (
            row.path,
            row.kind,
            f"{row.size_bytes / 1e6:,.1f}",
            row.changed[:16].replace("T", " "),
            row.base_model or "-",
            ", ".join(row.served_by) or "-",
        )
        table.add_row(*(Text(printable(str(cell), most_chars=None)) for cell in cells))
    Console(width=None if sys.stdout.isatty() else _UNBROKEN).print(table)
    for row in rows:
        if row.problem is not None:
            typer.echo(f"{printable(row.path)}: {printable(row.problem, most_chars=None)}", err=True)


def main() -> None:
    """Entry of `python -m wf_converter list`."""
    run(list_command, "python -m wf_converter list")
