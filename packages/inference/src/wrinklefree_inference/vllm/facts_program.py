"""Run by the Python of another environment: which vLLM and which plug-in it has, as one line of JSON."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec


def main() -> None:
    """Imports nothing of either."""
    plugins = [entry.name for entry in entry_points(group="vllm.general_plugins")]
    sys.stdout.write(json.dumps({"vllm": find_spec("vllm") is not None, "plugins": plugins}) + "\n")


if __name__ == "__main__":
    main()
