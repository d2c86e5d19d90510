#!/usr/bin/env python3
"""sbatch, squeue, scontrol and scancel on a table of jobs, by the name it is called by.

`$FAKE/table.json` is {"cluster", "user", "next", "now", "jobs", and what goes wrong}. A line per call goes to
`$FAKE/calls` (JSON) and `$FAKE/environments` (names of variables). Like Slurm for root, scancel asks for no
permission and takes a name, a user or nothing as "all of those": jobs of others live only if nobody asks for
them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

FOLDER = Path(os.environ["FAKE"])


def fail(text: str) -> NoReturn:
    sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {text}\n")
    sys.exit(1)


def main() -> None:
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with (FOLDER / "calls").open("a") as calls:
        calls.write(json.dumps([program, *arguments]) + "\n")
    with (FOLDER / "environments").open("a") as environments:
        environments.write(" ".join(os.environ) + "\n")
    table = json.loads((FOLDER / "table.json").read_text())
    if table.get("down"):
        fail("Unable to contact slurm controller (connect failure)")
    options = dict(argument.partition("=")[::2] for argument in arguments if argument.startswith("--"))
    positional = [argument for argument in arguments if not argument.startswith("-")]
    globals()[program](table, options, positional)
    (FOLDER / "table.json").write_text(json.dumps(table))


def sbatch(table: dict[str, Any], options: dict[str, str], positional: list[str]) -> None:
    if table.get("sbatch_refuses"):
        fail("Batch job submission failed: Requested node configuration is not available")
    script = sys.stdin.read()
    if not script.startswith("#!"):
        fail("This does not look like a batch script")
    if "--test-only" in options:
        return
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
        (FOLDER / "table.json").write_text(json.dumps(table))
        fail("Batch job submission failed: Socket timed out on send/recv operation")
    sys.stdout.write(f"{job_id}\n")


def squeue(table: dict[str, Any], options: dict[str, str], positional: list[str]) -> None:
    jobs = list(table["jobs"].values())
    if "--jobs" in options:
        wanted = options["--jobs"].split(",")
        jobs = [job for job in jobs if job["JobID"] in wanted]
        if not jobs and len(wanted) == 1:
            sys.stderr.write("slurm_load_jobs error: Invalid job id specified\n")
            sys.exit(1)
    if "--name" in options:
        jobs = [job for job in jobs if job["Name"] == options["--name"]]
    for job in jobs:
        for column in options["--Format"].split(","):
            name, _, width = column.partition(":")
            sys.stdout.write(job[name][: int(width)].ljust(int(width)))
        sys.stdout.write("\n")


def scontrol(table: dict[str, Any], options: dict[str, str], positional: list[str]) -> None:
    assert positional == ["show", "config"]
    sys.stdout.write(f"Configuration data as of today\nClusterName             = {table['cluster']}\n")


def scancel(table: dict[str, Any], options: dict[str, str], positional: list[str]) -> None:
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


main()
