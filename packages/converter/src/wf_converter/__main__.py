"""`python -m wf_converter COMMAND ARGS`, each of `COMMANDS`."""

from __future__ import annotations

import sys

from wf_converter import export, inspect, listing, prove, publish, pull

COMMANDS = {
    "export": export.main,
    "verify": prove.main,
    "inspect": inspect.main,
    "publish": publish.main,
    "list": listing.main,
    "pull": pull.main,
}


def run() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        sys.exit(f"error: {name!r} is not a command; give {' or '.join(COMMANDS)}, and --help after it")
    COMMANDS[name]()


if __name__ == "__main__":
    run()
