"""Which model a command runs: the one that is given, or the newest export here."""

from __future__ import annotations

from pathlib import Path

import typer

from wf_formats.exports import named_model, newest_export
from wf_formats.printable import printable

MODEL = "A .gguf file, an exported folder, ORG/NAME that was pulled, or a server's URL; else the newest here."


def chosen_model(given: str | None) -> str:
    """The path or URL of a model; where none was given, stderr has which it is, and what was skipped.

    Raises:
        RequestError: None was given and there is none, or a folder with several.
    """
    if given is not None:
        return named_model(given)
    newest = str(newest_export(skipped=_tell_skipped))
    typer.echo(
        f"model: {printable(newest, most_chars=None)}, the newest here (`wf list` shows all)", err=True
    )
    return newest


def _tell_skipped(path: Path, reason: str) -> None:
    name = printable(str(path), most_chars=None)
    typer.echo(f"skipped: {name} cannot be read: {printable(reason)}", err=True)
