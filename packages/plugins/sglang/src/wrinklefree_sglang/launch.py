"""SGLang's server with its key taken from the environment: command lines can be read by all.

WF_SGLANG_KEY=... python -m wrinklefree_sglang.launch --model-path FOLDER --port 30000
"""

from __future__ import annotations

import os
import sys

from sglang.launch_server import run_server
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import prepare_server_args
from sglang.srt.utils import kill_process_tree

KEY_VARIABLE = "WF_SGLANG_KEY"


def main() -> None:
    """Takes the options of `python -m sglang.launch_server`; no key in the environment: none."""
    load_plugins()
    key = os.environ.pop(KEY_VARIABLE, None)
    arguments = prepare_server_args([*sys.argv[1:], *(["--api-key", key] if key else [])])
    try:
        run_server(arguments)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":  # SGLang's processes import this module
    main()
