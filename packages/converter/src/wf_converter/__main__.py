"""`python -m wf_converter export ARGS` and `python -m wf_converter verify ARGS`."""

from __future__ import annotations

import os
import sys

from wf_converter.export import main, verify_main

COMMANDS = {"export": main, "verify": verify_main}


def run() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        sys.exit(f"error: {name!r} is not a command; give {' or '.join(COMMANDS)}, and --help after it")
    os.environ.setdefault("WF_PROG", f"python -m wf_converter {name}")
    COMMANDS[name]()


if __name__ == "__main__":
    run()
