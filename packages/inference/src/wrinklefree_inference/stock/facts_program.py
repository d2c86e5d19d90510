"""Run by the Python of another environment: whether it has a package, and a group's entry points, as JSON."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec


def main() -> None:
    """Imports nothing of either."""
    package, group = sys.argv[1:]
    plugins = [entry.name for entry in entry_points(group=group)]
    sys.stdout.write(json.dumps({"installed": find_spec(package) is not None, "plugins": plugins}) + "\n")


if __name__ == "__main__":
    main()
