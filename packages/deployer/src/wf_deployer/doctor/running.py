"""Runs checks beside each other: most of them wait for a child process."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wf_deployer.doctor.base import Check, Finding, Row, Status, UnreadableError
from wf_formats.boundary import BUG_NOTE
from wf_formats.errors import UserError

_THREADS = 8
_MOST_FINDINGS = 200
"""Of one check; a report of more is read by nobody."""


def run(checks: Sequence[Check], subject: Any) -> list[Row]:
    """The findings of all checks of the subject's type, in the order of `checks`."""
    chosen = [check for check in checks if isinstance(subject, check.subject)]
    pool = ThreadPoolExecutor(_THREADS)
    try:
        return [row for rows in pool.map(lambda check: _rows(check, subject), chosen) for row in rows]
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C the others do not begin


def _rows(check: Check, subject: Any) -> list[Row]:
    """A check that breaks does not end the others: what it had found stays, and its end is a failure."""
    rows: list[Row] = []
    try:
        for finding in check.find(subject):
            if len(rows) == _MOST_FINDINGS:
                rows.append(Row(check.id, Finding(Status.warn, "there is more", fix="mend the others first")))
                break
            rows.append(Row(_new_id(check, finding, rows), finding))
        if not rows:
            raise AssertionError(f"{check.id} said nothing")
    except UnreadableError as error:
        rows.append(Row(check.id, Finding(Status.skip, str(error))))
    except (UserError, OSError) as error:
        rows.append(Row(check.id, Finding(Status.fail, str(error), fix="mend what the line names")))
    except Exception as error:  # noqa: BLE001  # whatever it is, it becomes a failure that is shown
        rows.append(
            Row(check.id, Finding(Status.fail, _crash(error), "an answer", BUG_NOTE, "the check itself"))
        )
    return rows


def _new_id(check: Check, finding: Finding, rows: Sequence[Row]) -> str:
    """A second finding of one part has a number."""
    name = f"{check.id}.{finding.part}" if finding.part else check.id
    number = sum(row.id == name or row.id.startswith(f"{name}#") for row in rows)
    return f"{name}#{number + 1}" if number else name


def _crash(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"the check broke: {type(error).__name__}: {error} ({last.filename}:{last.lineno})"
