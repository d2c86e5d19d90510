"""Runs the router in an environment of its own (`router.py`), which has smg and nothing of ours.

It says `begun` once smg can be imported, reads its arguments as one line of JSON (the key is among them, and
everybody could read a command line), and ends when standard input does: with whoever started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading


def main() -> None:
    """Until the end of standard input."""
    from smg import launch_router  # type: ignore[import-not-found] # see above

    launch_router.print_banner = lambda *_: None
    os.write(1, b"begun\n")
    os.dup2(2, 1)  # where it logs
    line = sys.stdin.readline()
    if not line:
        return
    threading.Thread(target=_end_with_input, daemon=True).start()
    launch_router.launch_router(launch_router.parse_router_args(json.loads(line)))


def _end_with_input() -> None:
    while os.read(0, 1 << 12):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
