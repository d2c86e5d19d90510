"""Runs one training stage: see wrinklefree.train."""

import sys

from wrinklefree.train import main

if __name__ == "__main__":
    sys.exit(main())
