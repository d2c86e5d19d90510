"""A rank ends with the process that started it: torchrun's agent, or the first rank.

Ranks are in no process group that a kill -9 of their parent reaches, and would wait for each other, on
devices that the next start needs, until a time limit of minutes. The kernel kills them instead
(PR_SET_PDEATHSIG): what they were in the middle of is nothing to the checkpoints before. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_STARTER = "WRINKLEFREE_STARTER"
"""Number of the process that starts other ranks, where torchrun does not."""


def end_with_the_starter() -> None:
    """Has an effect in a process that torchrun or another one of the trainer has started; each tells its
    children who it is."""
    is_second = os.environ.get(_STARTER) == str(os.getppid())
    os.environ[_STARTER] = str(os.getpid())
    if sys.platform != "linux" or not (is_second or "TORCHELASTIC_RUN_ID" in os.environ):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl")
