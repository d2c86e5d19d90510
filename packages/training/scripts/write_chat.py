"""Lets a chat model write calibration text: see wrinklefree.self_chat."""

import sys

from wrinklefree.self_chat import main

if __name__ == "__main__":
    sys.exit(main())
