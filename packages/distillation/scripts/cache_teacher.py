"""Writes a teacher's sampled targets for a run's text: see wrinklefree_distillation.cache_teacher."""

import sys

from wrinklefree_distillation.cache_teacher import main

if __name__ == "__main__":
    sys.exit(main())
