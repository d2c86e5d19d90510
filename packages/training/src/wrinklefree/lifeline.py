"""A rank ends with the process that started it: torchrun's agent, or the first rank.

Ranks are in no process group that a kill -9 of their parent reaches, and would wait for each other, on
devices that the next start needs, until a time limit of minutes. The kernel kills them instead
(`wf_formats.lifeline`): what they were in the middle of is nothing to the checkpoints before. Linux only.
"""

from __future__ import annotations

import os

from wf_formats.lifeline import end_with

_STARTER = "WRINKLEFREE_STARTER"
"""Number of the process that starts other ranks, where torchrun does not."""


def end_with_the_starter() -> None:
    """Has an effect in a process that torchrun or another one of the trainer has started; each tells its
    children who it is."""
    is_second = os.environ.get(_STARTER) == str(os.getppid())
    os.environ[_STARTER] = str(os.getpid())
    if is_second or "TORCHELASTIC_RUN_ID" in os.environ:
        end_with(os.getppid())
