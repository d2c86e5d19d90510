"""`python -m wrinklefree_inference`; as `wf serve` and the like, $WF_PROG names the command."""

import os
import sys

from wrinklefree_inference.application import main

PROGRAM = os.environ.get("WF_PROG", "python -m wrinklefree_inference")

main(PROGRAM.removesuffix(f" {sys.argv[1]}") if len(sys.argv) > 1 else PROGRAM)
