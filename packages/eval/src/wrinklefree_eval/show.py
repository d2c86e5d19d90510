"""`python -m wrinklefree_eval.show FILE`: the table of a report that `wf eval` wrote, here or elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wf_formats.json_file import read_value
from wrinklefree_eval.command import FramedCommand, new_app
from wrinklefree_eval.errors import EvalError

app = new_app()


@app.command(cls=FramedCommand)
def show(report: Annotated[Path, typer.Argument(help="JSON of `wf eval --output`.")]) -> None:
    """Print a report as the evaluation printed it."""
    from rich.console import Console

    from wrinklefree_eval import results

    found = read_value(report, EvalError)
    try:
        results.show(found, Console())
    except (KeyError, TypeError, AttributeError) as error:
        raise EvalError(f"{report} is no report of `wf eval`: {error!r:.80}; evaluate again") from error


def main() -> None:
    """Entry of `python -m wrinklefree_eval.show`."""
    app(prog_name=os.environ.get("WF_PROG"))


if __name__ == "__main__":
    main()
