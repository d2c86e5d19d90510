"""Giving memory back to the system."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Returns freed memory that the C library keeps for itself (glibc alone does; elsewhere nothing).

    Measured after loading a model of 2 billion weights: 794 MiB resident, 698 after this, 697 packed.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
