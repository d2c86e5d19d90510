"""`python -m wrinklefree_inference`; as `wf serve` and the like, $WF_PROG names the command."""

import os

from wrinklefree_inference.cli import app

# WF_PROG is "wf serve": the group's own name is what stands before the command.
app(prog_name=os.environ.get("WF_PROG", "").rpartition(" ")[0] or None)
