"""Ternary codes and scales of a block: solved matrix by matrix, then refined as a whole (block.py)."""
