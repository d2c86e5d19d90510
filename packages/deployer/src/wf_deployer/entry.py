"""`wf`: what is an application's becomes it at once, the rest is parsed by typer (`main.py`)."""

from __future__ import annotations

import sys

from wf_deployer.applications import become_application, is_handed_on
from wf_formats.boundary import boundary


def main() -> None:
    """The console script."""
    name, *arguments = sys.argv[1:] or [""]
    if is_handed_on(name, arguments):
        with boundary():
            become_application(name, arguments)
    from wf_deployer.main import app

    app(prog_name="wf")
