"""`python -m wf_quickstart`; WF_PROG is the name in help and errors."""

import os

from wf_formats.boundary import boundary

with boundary("stopped; the same command goes on from here"):
    from wf_quickstart.cli import app

    app(prog_name=os.environ.get("WF_PROG"))
