"""Runs stage 3: see wrinklefree_distillation.distill."""

import sys

from wrinklefree_distillation.distill import main

if __name__ == "__main__":
    sys.exit(main())
