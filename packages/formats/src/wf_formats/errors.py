"""The errors of this package."""

from __future__ import annotations


class LoadError(ValueError):
    """A model cannot run here as it is; the message names the part, the reason and the remedy."""


class FormatError(ValueError):
    """Something cannot be written in a format without losing information; the message says what and why."""
