#!/usr/bin/env python3
"""sbatch, squeue, scontrol and scancel on a table of jobs: programs, or `answer` in a test's process.

`$FAKE/table.json` is {"cluster", "user", "next", "now", "jobs", and what goes wrong}. A line per call goes to
`$FAKE/calls` (JSON) and `$FAKE/environments` (names of variables). Like Slurm for root, scancel asks for no
permission and takes a name, a user or nothing as "all of those": jobs of others live only if nobody asks for
them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


class RefusedError(Exception):
    """What a program says when it ends with exit code 1."""


def fail(text: str) -> NoReturn:
    raise RefusedError(text)


def answer(command: Sequence[str], script: str, environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, standard output and error of a program."""
    program, arguments, folder = Path(command[0]).name, list(command[1:]), Path(environment["FAKE"])
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps([program, *arguments]) + "\n")
    with (folder / "environments").open("a") as environments:
        environments.write(" ".join(environment) + "\n")
    path = folder / "table.json"
    table = json.loads(path.read_text())
    try:
        if table.get("down"):
            fail("Unable to contact slurm controller (connect failure)")
        return 0, _run(program, table, arguments, script), ""
    except RefusedError as error:
        return 1, "", f"{program}: error: {error}\n"
    finally:
        path.write_text(json.dumps(table))


def _run(program: str, table: dict[str, Any], arguments: list[str], script: str) -> str:
    options = dict(argument.partition("=")[::2] for argument in arguments if argument.startswith("--"))
    positional = [argument for argument in arguments if not argument.startswith("-")]
    if program == "sbatch":
        return sbatch(table, options, script)
    programs = {"squeue": squeue, "scontrol": scontrol, "scancel": scancel}
    return programs[program](table, options, positional)


def sbatch(table: dict[str, Any], options: dict[str, str], script: str) -> str:
    if table.get("sbatch_refuses"):
        fail("Batch job submission failed: Requested node configuration is not available")
    if not script.startswith("#!"):
        fail("This does not look like a batch script")
    if "--test-only" in options:
        return ""
    job_id = str(table["next"])
    table["next"] += 1
    table["jobs"][job_id] = {
        "JobID": job_id,
        "UserName": table["user"],
        "State": table.get("first_state", "RUNNING"),
        "SubmitTime": table["now"],
        "RestartCnt": "0",
        "Reason": "None",
        "Comment": options["--comment"],
        "Name": options["--job-name"],
    }
    if table.get("goes_down"):
        table["down"] = True
    if table.get("sbatch_loses_answer"):
        fail("Batch job submission failed: Socket timed out on send/recv operation")
    return f"{job_id}\n"


def squeue(table: dict[str, Any], options: dict[str, str], positional: list[str]) -> str:
    jobs = list(table["jobs"].values())
    if "--jobs" in options:
        wanted = options["--jobs"].split(",")
        jobs = [job for job in jobs if job["JobID"] in wanted]
        if not jobs and len(wanted) == 1:
            fail("Invalid job id specified")
    if "--name" in options:
        jobs = [job for job in jobs if job["Name"] == options["--name"]]
    columns = [column.partition(":")[::2] for column in options["--Format"].split(",")]
    lines = ("".join(job[name][: int(width)].ljust(int(width)) for name, width in columns) for job in jobs)
    return "".join(f"{line}\n" for line in lines)


def scontrol(table: dict[str, Any], options: dict[str, str], positional: list[str]) -> str:
    assert positional == ["show", "config"]
    return f"Configuration data as of today\nClusterName             = {table['cluster']}\n"


def scancel(table: dict[str, Any], options: dict[str, str], positional: list[str]) -> str:
    if table.get("scancel_fails"):
        fail("Unable to contact slurm controller (connect failure)")
    chosen = [table["jobs"][job_id] for job_id in positional] or list(table["jobs"].values())
    for job in chosen:
        if "--state" in options:
            if table.get("begins_meanwhile") and job["State"] == "PENDING":
                job["State"] = "RUNNING"
            if job["State"] == options["--state"]:
                job["State"] = "CANCELLED"
        elif "--signal" in options:
            if job["State"] == "RUNNING" and not table.get("deaf"):
                job["State"] = "FAILED"
        else:
            job["State"] = "CANCELLED"
    return ""


if __name__ == "__main__":
    code, printed, told = answer(sys.argv, sys.stdin.read(), os.environ)
    sys.stdout.write(printed)
    sys.stderr.write(told)
    sys.exit(code)
