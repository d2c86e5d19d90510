"""Asking once for many jobs: how long, and what is told of a job that has no answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from wf_deployer.backends.record import JobFolder
from wf_deployer.errors import CommandError

Found = TypeVar("Found")
Wanted = TypeVar("Wanted")

ASKING_TIMEOUT_S = 90.0
"""Of a question to whoever runs jobs; their clients themselves would wait for minutes, or for ever."""


class NoAnswerError(CommandError):
    """Whoever runs a job cannot be asked, or says no; nothing is known of the job then."""


def time_left_s(until_s: float, most_s: float = ASKING_TIMEOUT_S) -> float:
    """Seconds for a question. Args: until_s: by `time.monotonic`; most_s: of this question."""
    return max(0.0, min(most_s, until_s - time.monotonic()))


def late(who: str, timeout_s: float) -> str:
    """What is told of somebody who has not answered in the time."""
    return f"{who} has not answered within {timeout_s:.0f} s; try again, or `wf runs --timeout 600`"


def asked_for(
    job_ids: Iterable[str], wanted: Callable[[JobFolder], Wanted | None]
) -> tuple[dict[str, Wanted], dict[str, CommandError]]:
    """What is asked for of each job, and why that of others is not known: a record that cannot be read.

    Args:
        wanted: Of a job; None: nobody has to be asked about it.
    """
    found: dict[str, Wanted] = {}
    damaged: dict[str, CommandError] = {}
    for job_id in job_ids:
        try:
            if (one := wanted(JobFolder.of(job_id))) is not None:
                found[job_id] = one
        except CommandError as error:
            damaged[job_id] = error
        except OSError as error:
            damaged[job_id] = CommandError(str(error))
    return found, damaged


def answer_of(job_id: str, answers: Mapping[str, Found | CommandError]) -> Found:
    """The answer for a job; whether what was found is ours is not decided here.

    Raises: CommandError, why there is none.
    """
    changed = NoAnswerError("its record has changed while others were asked; look again")
    answer = answers.get(job_id, changed)
    if isinstance(answer, CommandError):
        raise answer
    return answer
