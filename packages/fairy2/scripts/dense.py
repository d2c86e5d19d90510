"""Writes a checkpoint's quantized values as a dense model: see fairy2.dense."""

import sys

from fairy2.dense import main

if __name__ == "__main__":
    sys.exit(main())
