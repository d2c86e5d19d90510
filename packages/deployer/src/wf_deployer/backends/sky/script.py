"""What runs on each node of a job, in bash: the environment, the trainer, and how it ended.

1. `uv sync` makes the environment; on Slurm, whose nodes share a home, the first node's is everybody's.
2. The trainer runs where `wf` was called in the checkout. It resumes from `training.checkpoint.upload`. A
   job of work.py is bash in its place.
3. The first node puts `exit.json` and `log.txt` beside the uploads, since machines are gone soon afterwards.
   On Slurm it gives the machines back too, which SkyPilot does not when they are idle.

SkyPilot ends a job by TERM for every process, and by KILL 30 s later: the trainer writes and uploads a
checkpoint meanwhile. Shell, log and torchrun's agent stay for it (see torchrun.py). Not on Slurm: there
nothing of a cancelled job was left to do so.

Several nodes meet at the first address that SkyPilot gives. Hostnames of clouds are often unknown to the
other nodes, so each agent is told its own address. The agents' store is not that of the processes
(TORCH_DISABLE_SHARE_RDZV_TCP_STORE), where addresses of an earlier start would be found. Nodes with disks of
their own begin with an empty output folder at each start: all take the same checkpoint from the store.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from dataclasses import dataclass
from pathlib import PurePosixPath

from wf_deployer.backends.base import Resources
from wf_deployer.backends.torchrun import torchrun

STOPPED_BY_TERM = 143
"""Exit code of training that saved and stopped when asked."""

RELEASE_S = 10
_PREPARE = """\
unset VIRTUAL_ENV  # of SkyPilot
export PATH="$HOME/.local/bin:$PATH" PYTHONUNBUFFERED=1
root=$PWD
python=$root/.venv/bin/python

environment() {
    command -v c++ >/dev/null ||
        { $(command -v sudo) apt-get -qq update && $(command -v sudo) apt-get -qq install g++; } || return
    uv sync --no-dev
}
"""
_SCRIPT = """\
# wf job {job_id}
trap : TERM
end=$(mktemp -d)
{prepare}
job() (
{environment}
    cd {folder} || exit 2
{rendezvous}    {command}
)

job 2>&1 | (trap '' TERM; exec tee "$end/log.txt")
code=${{PIPESTATUS[0]}}
if [ "${{SKYPILOT_NODE_RANK:-0}}" = 0 ]{and_final}; then
    printf '{{"returncode": %d, "cancelled": false, "ended_s": %d}}\\n' "$code" "$(date +%s)" \\
        >"$end/exit.json"
    "$python" -m wf_stores.main put "$end" {end_url} ||
        echo "wf: how the job ended is not in "{end_url} >&2
{release}fi
exit "$code"
"""

_OWN_ENVIRONMENT = """\
    environment || exit"""

_COMMON_ENVIRONMENT = """\
    if [ "$SKYPILOT_NODE_RANK" = 0 ]; then
        { environment && touch "$root/.wf-ready"; } || exit
    fi
    until [ -e "$root/.wf-ready" ]; do sleep 1; done"""

_RENDEZVOUS = """\
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    mapfile -t addresses <<<"$SKYPILOT_NODE_IPS"
    first=false
    [ "$SKYPILOT_NODE_RANK" = 0 ] && first=true
    trap '' TERM
"""

_RELEASE = """\
    sleep {seconds}  # for whoever follows the log
    scancel "$SLURM_JOB_ID"
"""


@dataclass(frozen=True)
class Program:
    """What a machine runs.

    Attributes:
        command: Of the trainer; the interpreter, when it is ours, becomes that of the machine. Or bash that
            runs instead, with `$python` and `$root`, the checkout.
        folder: In the checkout, where it runs.
        end_url: Where to put how it ended.
        is_managed: SkyPilot begins the job again, so only success is its end.
    """

    job_id: str
    command: list[str] | str
    folder: PurePosixPath
    end_url: str
    resources: Resources
    is_managed: bool
    is_slurm: bool


def run_script(program: Program) -> str:
    """Bash for a task's `run`."""
    resources = program.resources
    is_shared = program.is_slurm and resources.num_nodes > 1
    return _SCRIPT.format(
        job_id=program.job_id,
        prepare=_PREPARE,
        environment=_COMMON_ENVIRONMENT if is_shared else _OWN_ENVIRONMENT,
        folder=shlex.quote(str(program.folder)),
        rendezvous=_RENDEZVOUS if resources.num_processes > 1 else "",
        command=_command(program),
        and_final=' && [ "$code" = 0 ]' if program.is_managed else "",
        end_url=shlex.quote(program.end_url),
        release=_RELEASE.format(seconds=RELEASE_S) if program.is_slurm else "",
    )


def service_script(job_id: str, start: str) -> str:
    """Bash for the task of a service. Args: start: what becomes the server (service.py)."""
    return f"# wf service {job_id}\n{_PREPARE}environment || exit\n{start}"


def _command(program: Program) -> str:
    if isinstance(program.command, str):
        return program.command.rstrip("\n")
    first, *rest = program.command
    words = ['"$python"' if first == sys.executable else shlex.quote(first), shlex.join(rest)]
    resources = program.resources
    if resources.num_nodes > 1 and not program.is_slurm:
        words += ["distributed.shared_output=false", 'output_dir="$(mktemp -d "$root/outputs.XXXXXX")"']
    if resources.num_processes > 1:
        words.insert(0, torchrun('"$python"', resources, _rendezvous(program.job_id)))
    return f"exec {' '.join(words)}"


def _rendezvous(job_id: str) -> str:
    """The port is the job's own: nodes of Slurm may have several jobs."""
    port = 10_000 + int(hashlib.sha256(job_id.encode()).hexdigest(), 16) % 20_000
    return (
        f'--rdzv-id={job_id} --rdzv-endpoint="${{addresses[0]}}:{port}" --rdzv-conf=is_host=$first '
        '--local-addr="${addresses[SKYPILOT_NODE_RANK]}"'
    )
