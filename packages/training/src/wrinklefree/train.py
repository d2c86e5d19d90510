"""Entry point: one stage of training. Options and exit codes: command_line.py; order: application.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wf_formats.boundary import boundary


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises: SystemExit, after an error that is shown."""
    with boundary("stopped; the same command goes on from the newest checkpoint, if there is one"):
        # Imported here, so that Ctrl-C meanwhile ends in one line too.
        from wrinklefree.application import run

        return run(argv)


if __name__ == "__main__":
    sys.exit(main())
