"""`wf doctor`: what is in order here, and what mends the rest."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

import typer

_UNBROKEN = 10_000
"""Columns of what goes into a file or a pipe: a problem stays one line."""


def doctor(
    path: Annotated[
        Path | None, typer.Argument(help="A repository of Python packages; this checkout if left out.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for warnings too.")] = False,
) -> None:
    """Check a checkout: versions, lock, couplings, tools, machine, keys, pages; or another repository.

    Works offline, changes nothing, runs no code of another repository. Exit codes: 0 no failure, 1 a
    failure (with --strict: a warning), 2 a wrong request.

    Examples:

    wf doctor

    wf doctor --strict --json

    wf doctor ../llm-awq
    """
    from rich.console import Console

    from wf_deployer.doctor.diagnosis import diagnose
    from wf_deployer.doctor.report import show

    report = diagnose(path, strict)
    if json:
        typer.echo(json_module.dumps(report.as_json(), indent=2))
    else:
        width = None if sys.stdout.isatty() else _UNBROKEN
        show(report, Console(width=width, highlight=False))
    raise typer.Exit(report.exit_code)
