"""Whose job it is: a job of others is never stopped, nor one that later got the same id.

What was submitted is written down at once: id, name, user, endpoint, time, and a random token that the job
itself carries. Before anything is done to a job, exactly that id is fetched again and all of it has to agree.
Names are for people: no command of ours chooses jobs by name, user, pool or "all".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from wf_deployer.backends.fields import read_from_json
from wf_deployer.backends.record import JobFolder, JobRecord
from wf_deployer.errors import CommandError
from wf_formats.atomic import atomic_write_json

_FILE = "submitted.json"


@dataclass(frozen=True)
class Ownership:
    """A job as the other side knows it.

    Attributes:
        id: Given by the other side.
        name: Unique, given by us.
        user: Who submitted it, as the other side calls them.
        endpoint: Which cluster or server.
        submitted_s: Seconds since 1970, by the other side's clock.
        token: Random mark that the job carries; None: it carries none.
        restarts: How often the other side began it anew under this id.
    """

    id: str
    name: str
    user: str
    endpoint: str
    submitted_s: int
    token: str | None
    restarts: int = 0


def differences(recorded: Ownership, found: Ownership) -> list[str]:
    """What speaks against `found` being the job of the record; without values of tokens."""
    told = [
        f"its {what} is {ours!r:.80}, not {theirs!r:.80}"
        for what, theirs, ours in (
            ("id", recorded.id, found.id),
            ("name", recorded.name, found.name),
            ("user", recorded.user, found.user),
            ("cluster", recorded.endpoint, found.endpoint),
        )
        if theirs != ours
    ]
    if recorded.token is None or found.token != recorded.token:
        told.append("its token is another" if found.token else "it carries no token")
    later = found.submitted_s - recorded.submitted_s
    if later < 0 or (later > 0 and found.restarts == 0):  # a job that begins anew gets a new time
        told.append(f"it was submitted {abs(later)} s {'later' if later > 0 else 'earlier'}")
    return told


def require_ours(recorded: Ownership, found: Ownership) -> None:
    """Raises: CommandError if anything differs; says what."""
    if told := differences(recorded, found):
        raise CommandError(
            f"refused: job {recorded.id} of {found.endpoint} is not the one that wf submitted: "
            f"{'; '.join(told)}; nothing was touched"
        )


def require_recorded_of(
    record: JobRecord, recorded: Ownership, folder: Path, its_id: str | None = None
) -> None:
    """Raises: CommandError if what was written down is of another job.

    Args:
        its_id: Where it is known from elsewhere too.
    """
    is_its = (recorded.name, recorded.token) == (record.name, record.token)
    if not is_its or its_id not in (None, recorded.id):
        raise CommandError(f"{folder / _FILE} is damaged: it is of another job")


def write_ownership(folder: Path, ownership: Ownership) -> None:
    atomic_write_json(folder / _FILE, asdict(ownership))


def read_ownership(folder: Path) -> Ownership | None:
    """None: it was not written (yet). Raises: CommandError if the file is damaged."""
    return read_from_json(Ownership, folder / _FILE)


def require_undamaged(job: JobFolder) -> None:
    """Before others are asked about a job. Raises: CommandError if what is written down of it is damaged."""
    record, end, _ = job.record, job.exit, job.was_cancelled
    if end is None and (recorded := read_ownership(job.folder)) is not None:
        require_recorded_of(record, recorded, job.folder)
