"""Entry point: one stage of training. Options and exit codes: command_line.py; order: application.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wf_formats.boundary import boundary

if TYPE_CHECKING:
    from wrinklefree.compose.roots import Root


def main(argv: Sequence[str] | None = None, root: Root | None = None) -> int:
    """Returns the exit code. Raises: SystemExit, after an error that is shown.

    Args: root is the configuration of an application that builds on the trainer.
    """
    with boundary("stopped; the same command goes on from the newest checkpoint, if there is one"):
        # Imported here, so that Ctrl-C meanwhile ends in one line too.
        from wrinklefree.application import run
        from wrinklefree.compose.roots import TRAIN
        from wrinklefree.lifeline import end_with_the_starter

        end_with_the_starter()
        return run(argv, root or TRAIN)


if __name__ == "__main__":
    sys.exit(main())
