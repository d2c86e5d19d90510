"""The whole command line, for who runs it within a process of their own."""

from __future__ import annotations

from wrinklefree_inference.application import application

app = application()
