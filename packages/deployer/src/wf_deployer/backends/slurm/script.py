"""How a job is submitted, and its script: one `srun` task on each node, and what happens when it is to stop.

1. Slurm sends USR1 to the script `GRACE_S` before the time limit of a job that resumes; `wf cancel` sends the
   same.
2. The script sends TERM to the step, once: each training process finishes its step, writes a checkpoint and
   ends. torchrun ignores TERM; it would pass it on a second time, which the trainer takes for "at once", and
   kill after 30 s.
3. After `wf cancel` (`cancel.json`) the job ends; otherwise it asks Slurm to queue it again, under the same
   id, and training goes on from its checkpoint. A job that was asked in its first `GRACE_S` is not queued
   again: its time limit is too short to make any progress.

TERM for the script itself is a plain `scancel`, or preemption: Slurm sends it to the step too, and kills what
is left after its KillWait. Slurm alone knows whether the job begins again, so no end is recorded (`ended`).

Several processes find each other by torchrun's c10d rendezvous on the first node. Its store is not that of
the processes (TORCH_DISABLE_SHARE_RDZV_TCP_STORE), where addresses of an earlier start would be found.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from wf_deployer.backends.base import Resources
from wf_deployer.backends.record import JobRecord
from wf_deployer.backends.slurm.client import comment_with
from wf_deployer.backends.torchrun import torchrun

GRACE_S = 300
"""Seconds before the time limit at which training is asked for its checkpoint."""

_SCRIPT = """\
#!/bin/bash
# wf job {job_id}
asked= stopping= ended= SECONDS=0
trap 'asked=yes' USR1
trap 'ended=yes' TERM
folder={folder}

finish() {{
    cancelled=false
    [ -e "$folder/cancel.json" ] && cancelled=true
    printf '{{"returncode": %d, "cancelled": %s, "ended_s": %d}}\\n' "$1" "$cancelled" "$(date +%s)" \\
        >"$folder/.exit.json" && mv -f "$folder/.exit.json" "$folder/exit.json"
    exit "$1"
}}

if [ ! -d "$folder" ]; then
    echo "wf: $folder is not on this node; the workspace must be on a file system that all nodes share" >&2
    exit 2
fi
rm -f "$folder/exit.json" "$folder/started" "$folder/ended"
[ -e "$folder/cancel.json" ] && finish 143
echo "wf: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((${{SLURM_RESTART_COUNT:-0}} + 1))"
{setup}
srun {srun_options} bash -c 'touch "$0" || exit 1; {before}exec "$@"' "$folder/started" \\
    {command} &
step=$!

stop() {{
    until [ -e "$folder/started" ]; do
        kill -0 "$step" 2>/dev/null || return
        sleep 0.2
    done
    echo "wf: asking the training processes to stop"
    scancel --signal=TERM "$SLURM_JOB_ID"
}}

while :; do
    wait "$step"
    code=$?
    kill -0 "$step" 2>/dev/null || break
    if [ -n "$asked" ] && [ -z "$stopping" ]; then
        stopping=yes
        stop
    fi
done

if [ "$code" -ne 0 ] && [ -n "$ended" ] && [ ! -e "$folder/cancel.json" ]; then
    touch "$folder/ended"
    exit "$code"
fi
if [ "$code" -ne 0 ] && [ -n "$asked" ] && [ ! -e "$folder/cancel.json" ]; then
    if [ "$SECONDS" -lt {grace_s} ]; then
        echo "wf: the time limit leaves less than {grace_s} s; give a longer one (SBATCH_TIMELIMIT)" >&2
    elif scontrol requeue "$SLURM_JOB_ID"; then
        exit 0
    else
        echo "wf: Slurm did not queue the job again; the same wf train command resumes it" >&2
    fi
fi
finish "$code"
"""

_RENDEZVOUS = """\
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || finish 1
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
endpoint=${nodes%%$'\\n'*}:$((10000 + SLURM_JOB_ID % 20000))
"""
_MEETING = '--rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$endpoint"'


def sbatch_options(record: JobRecord, folder: Path) -> list[str]:
    """On the command line, since variables of the user (SBATCH_JOB_NAME) go before lines of the script."""
    resources = record.resources
    options = [
        f"--job-name={record.name}",
        f"--comment={comment_with(record.token)}",
        f"--nodes={resources.num_nodes}",
        f"--ntasks={resources.num_nodes}",
        "--ntasks-per-node=1",
        f"--chdir={record.cwd}",
        f"--output={str(folder / 'log.txt').replace('%', '%%')}",
        "--open-mode=append",
        "--export=ALL",
        "--requeue",
    ]
    if record.resumes:
        options.append(f"--signal=B:USR1@{GRACE_S}")
    if resources.time_s is not None:
        options.append(f"--time={-(-resources.time_s // 60)}")  # minutes
    if resources.cpus is not None:
        options.append(f"--cpus-per-task={resources.cpus}")
    if (gpus := resources.gpus) is not None:
        kind = "" if gpus.kind is None else f"{gpus.kind}:"
        options.append(f"--gpus-per-node={kind}{gpus.count}")
    return options


def batch_script(job_id: str, folder: Path, command: Sequence[str], resources: Resources) -> str:
    """Bash for `sbatch`.

    Args:
        folder: Of the job, absolute; the same on all nodes.
        command: The program of one process.
    """
    options = [f"--nodes={resources.num_nodes}", f"--ntasks={resources.num_nodes}", "--ntasks-per-node=1"]
    if resources.cpus is not None:  # srun does not take it from sbatch
        options.append(f"--cpus-per-task={resources.cpus}")
    options.append("--kill-on-bad-exit=1")
    several = resources.num_processes > 1
    program = shlex.join(command)
    if several:
        program = f"{torchrun(shlex.quote(sys.executable), resources, _MEETING)} {program}"
    return _SCRIPT.format(
        job_id=job_id,
        folder=shlex.quote(str(folder)),
        setup=_RENDEZVOUS if several else "",
        srun_options=shlex.join(options),
        before='trap "" TERM; ' if several else "",
        command=program,
        grace_s=GRACE_S,
    )
