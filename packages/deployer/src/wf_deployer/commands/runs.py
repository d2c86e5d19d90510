"""`wf runs`: the background jobs."""

from __future__ import annotations

import json as json_module
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wf_deployer.backends.base import JobStatus
    from wf_deployer.backends.registry import Job, Told

COLUMNS = (
    "id",
    "state",
    "kind",
    "cloud",
    "experiment",
    "stage",
    "step",
    "exit_code",
    "age_s",
    "duration_s",
    "log",
    "url",
)
"""Keys of a row, besides `problem`."""


def runs(
    json: Annotated[bool, typer.Option("--json", help="One JSON list instead of a table.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Only this many of the newest.")] = 20,
    timeout: Annotated[
        float,
        typer.Option(min=0, help="Seconds for all questions to those who run jobs elsewhere."),
    ] = 60,
) -> None:
    """List the background jobs: state, stage, step, age.

    Example: wf runs --json
    """
    from wf_deployer.backends.registry import list_jobs, statuses

    jobs = list_jobs()[-limit:][::-1]
    told = statuses(jobs, timeout)
    rows = [_row(job, told[job.id]) for job in jobs]
    if json:
        typer.echo(json_module.dumps(rows, indent=2))
    elif rows:
        from wf_formats.printable import printable

        _print_table(rows)
        for problem, ids in _problems(rows).items():
            typer.echo(f"{printable(ids)}: {printable(problem, None)}", err=True)
    else:
        typer.echo("no jobs yet; `wf train -s 1` starts one")


def _row(job: Job, told: Told) -> dict[str, Any]:
    """A row of any job: one whose record is damaged has its id and the problem."""
    from wf_deployer.backends.base import JobState
    from wf_deployer.errors import CommandError

    try:
        if isinstance(told, Exception):
            raise told
        return _readable_row(job, told)
    except (CommandError, OSError) as error:
        unknown = dict.fromkeys(COLUMNS)
        return unknown | {"id": job.id, "state": str(JobState.damaged), "problem": str(error)}


def _readable_row(job: Job, status: JobStatus) -> dict[str, Any]:
    record = job.record
    return {
        "id": job.id,
        "state": str(status.state),
        "kind": record.kind,
        "cloud": record.cloud,
        "experiment": record.experiment,
        "stage": record.stage,
        "step": status.step,
        "exit_code": status.exit_code,
        "age_s": round(time.time() - record.created_s),
        "duration_s": round((status.ended_s or time.time()) - record.created_s),
        "log": status.log,
        "url": status.url,
        "problem": status.problem,
    }


def _problems(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What is to be said, and of which jobs: once, where it is the same of many."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["problem"] is not None:
            found.setdefault(row["problem"], []).append(row["id"])
    return {
        problem: ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
        for problem, ids in found.items()
    }


_COLORS = {
    "running": "cyan",
    "finished": "green",
    "failed": "red",
    "lost": "red",
    "damaged": "red",
    "unknown": "red",
    "cancelled": "yellow",
}


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from wf_formats.printable import printable

    def shown(value: object, style: str = "") -> Text:
        return Text("-" if value is None else printable(str(value)), style)

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "cloud", "experiment", "stage", "step", "age"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("step", "age") else "left")
    if has_services := any(row["url"] is not None for row in rows):
        table.add_column("address", overflow="fold")
    for row in rows:
        state = row["state"] + (f" ({row['exit_code']})" if row["state"] == "failed" else "")
        styled = shown(state, _COLORS.get(row["state"], "white"))
        since = None if row["age_s"] is None else age(row["age_s"])
        others = [row["cloud"], row["experiment"], row["stage"], row["step"], since]
        others += [row["url"]] if has_services else []
        table.add_row(shown(row["id"]), styled, *map(shown, others))
    Console().print(table)


def age(seconds: float) -> str:
    """Two leading units at most: `42 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes == 0:
        return f"{int(seconds)} s"
    if hours == 0:
        return f"{minutes} min"
    if days == 0:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"
