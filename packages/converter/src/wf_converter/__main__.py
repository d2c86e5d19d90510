"""`python -m wf_converter export ARGS` and `python -m wf_converter verify ARGS`."""

from __future__ import annotations

import os

import typer

from wf_converter.export import export, run, verify_command

app = typer.Typer(
    name="wf_converter",
    help="Export a checkpoint, and prove the export.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("export")(export)
app.command("verify")(verify_command)

if __name__ == "__main__":
    # WF_PROG is "wf export": the group's own name is what stands before the command.
    run(app, os.environ.get("WF_PROG", "").rpartition(" ")[0] or None)
