"""The error of loading."""

from __future__ import annotations


class LoadError(ValueError):
    """A model cannot run here as it is; the message names the part, the reason and the remedy."""
