"""Kinds of sources, a file each; opening.py chooses by `kind`."""
