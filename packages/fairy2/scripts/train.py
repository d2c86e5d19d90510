"""Trains a model of complex-valued weights: see fairy2.train."""

import sys

from fairy2.train import main

if __name__ == "__main__":
    sys.exit(main())
