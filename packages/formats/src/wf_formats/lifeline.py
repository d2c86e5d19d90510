"""A process that ends with the one that started it, however that ends: by `kill -9` too.

The kernel kills it (PR_SET_PDEATHSIG). Linux only; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have this process killed when `parent`, which started it, ends; at once if it has ended already.

    Raises:
        OSError: The kernel refuses.
    """
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
