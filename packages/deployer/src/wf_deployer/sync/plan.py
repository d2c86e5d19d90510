"""What a sync would do, from what is here, what is there and what was sent before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wf_formats.errors import RequestError

MOST_DELETED = 0.5
"""Share of the files sent before that may be deleted without --force."""


@dataclass(frozen=True)
class Plan:
    """Paths in order.

    Attributes:
        send: Files that the remote lacks or has differently.
        delete: Files that were sent, are gone here and are there as they were sent, with what was sent.
        kept: Files that were sent and are gone here, but were changed there since.
        num_known: Files that were sent before.
    """

    send: list[str]
    delete: dict[str, list[str]]
    kept: list[str]
    num_known: int

    @property
    def is_empty(self) -> bool:
        return not self.send and not self.delete

    def check_deletions(self, force: bool) -> None:
        """Raises: RequestError for more than is deleted without --force."""
        if not force and len(self.delete) > MOST_DELETED * self.num_known:
            raise RequestError(
                f"{len(self.delete)} of {self.num_known} files that were sent would be deleted, more than "
                f"{MOST_DELETED:.0%}; look at --dry-run, then use --force"
            )


def make_plan(
    wanted: Mapping[str, str],
    sent: Mapping[str, list[str]],
    there: Mapping[str, str | None],
    gone: Sequence[str],
) -> Plan:
    """Compares.

    Args:
        wanted: Identities by path, as they shall be.
        sent: What was sent before, by path: all identities that the remote may have got.
        there: Identities by path on the remote.
        gone: Paths that may be deleted: they are not here any more.
    """
    left = [path for path in gone if path in sent and there.get(path) is not None]
    return Plan(
        send=[path for path, identity in wanted.items() if there.get(path) != identity],
        delete={path: sent[path] for path in left if there[path] in sent[path]},
        kept=[path for path in left if there[path] not in sent[path]],
        num_known=len(sent),
    )
