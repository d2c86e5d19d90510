"""`python -m wrinklefree_inference`; as `wf serve` and the like, $WF_PROG names the command."""

import os
import sys

from wrinklefree_inference.cli import app

PROGRAM = os.environ.get("WF_PROG", "python -m wrinklefree_inference")

app(prog_name=PROGRAM.removesuffix(f" {sys.argv[1]}") if len(sys.argv) > 1 else PROGRAM)
