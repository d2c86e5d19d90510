"""`python -m wrinklefree_inference`."""

from wrinklefree_inference.cli import app

app()
