"""`python -m wf_quickstart`; WF_PROG is the name in help and errors."""

import os

from wf_quickstart.cli import app

app(prog_name=os.environ.get("WF_PROG"))
