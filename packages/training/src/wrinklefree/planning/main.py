"""Entry point of `wf plan`. Options: request.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from wf_formats.boundary import boundary

_UNBROKEN = 10_000
"""Columns of what goes into a file or a pipe."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 whether it fits or not. Raises: SystemExit, after an error that is shown."""
    with boundary():
        from rich.console import Console

        from wf_formats.plugins import PluginError
        from wrinklefree.config.errors import ConfigError
        from wrinklefree.planning.plan import make_plan
        from wrinklefree.planning.report import as_json, show
        from wrinklefree.planning.request import read

        try:
            request = read(argv)
        except PluginError as error:
            raise ConfigError(str(error)) from error
        plan = make_plan(request.config, request.machine, request.kinds, request.share)
        if request.as_json:
            sys.stdout.write(json.dumps(as_json(plan, request), indent=2, allow_nan=False) + "\n")
        else:
            width = None if sys.stdout.isatty() else _UNBROKEN
            show(plan, request, Console(width=width, highlight=False))
        return 0


if __name__ == "__main__":
    sys.exit(main())
