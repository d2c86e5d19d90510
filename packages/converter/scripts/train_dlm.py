"""Trains a block-diffusion model from an autoregressive checkpoint: `wf dlm`; see `--help`."""

import sys

from wrinklefree_distillation.dlm import main

if __name__ == "__main__":
    sys.exit(main())
