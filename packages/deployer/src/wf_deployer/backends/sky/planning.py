"""The task of SkyPilot that a job becomes, and what cannot be one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from wf_deployer.backends.base import Resources
from wf_deployer.backends.record import TOKEN_VARIABLE, JobRecord, refuse_secrets
from wf_deployer.backends.service import KEY_VARIABLE
from wf_deployer.backends.sky.end import end_url
from wf_deployer.backends.sky.gcp import gcp_resources
from wf_deployer.backends.sky.infra import CHOSEN_BY_SKY, Infra
from wf_deployer.backends.sky.script import STOPPED_BY_TERM, Program, run_script
from wf_deployer.backends.sky.settings import SETTINGS_FILE, Settings
from wf_deployer.backends.sky.task import SkyTask
from wf_deployer.backends.sky.workdir import files_to_send
from wf_deployer.backends.travelling import Checkout, Destination, refuse_files_that_stay
from wf_deployer.backends.work import work_script
from wf_deployer.errors import CommandRequestError
from wf_deployer.workspace import workspace_root
from wf_formats.overrides import override

_UPLOAD = "training.checkpoint.upload"
_START = "training.start_from"
SENT = "wf-inputs"
"""Folder beside the checkout's files that holds what is sent with a job."""
IDLE_MINUTES = 10
"""After its job, until a cluster ends: time for `wf logs`."""
_RECOVERY = {"strategy": "EAGER_NEXT_REGION", "recover_on_exit_codes": [STOPPED_BY_TERM]}
"""A machine that is taken away may send TERM first: training has saved and ended before SkyPilot sees why."""


def plan(infra: Infra, record: JobRecord, workdir: Path, settings: Settings) -> SkyTask:
    """Raises: CommandRequestError for a job that cannot run on machines of others."""
    resources = record.resources
    fix = f"name its variable in secrets of {SETTINGS_FILE}"
    refuse_secrets(record.command, "SkyPilot stores a job's command", fix)
    upload, command, folder = _working(record) if record.inputs is not None else _training(infra, record)
    program = Program(
        record.id,
        command,
        folder,
        end_url(upload, record.id),
        resources,
        is_managed=resources.spot,
        is_slurm=infra.is_slurm,
    )
    return SkyTask(
        name=record.name,
        num_nodes=resources.num_nodes,
        workdir=str(workdir),
        places=tuple(place | _anywhere(infra, record) for place in places(infra, resources, settings)),
        run=run_script(program),
        envs={TOKEN_VARIABLE: record.token, "WF_JOB_ID": record.id},
        secrets=settings.secrets,
    )


def _training(infra: Infra, record: JobRecord) -> tuple[str, list[str], PurePosixPath]:
    """Where it uploads, its command, and the folder of the checkout where that runs."""
    _refuse_local_start(infra, record)
    upload = _upload(infra, record)
    folder = _folder_in_checkout(record)
    _refuse_files_that_stay(infra, record)
    return upload, _command(record, upload), folder


def _working(record: JobRecord) -> tuple[str, str, PurePosixPath]:
    """The same of a job of work.py, whose bash has a folder of its own."""
    assert record.upload is not None
    script = work_script(record, '"$root/.venv/bin/python"', f'"$root/{SENT}"')
    return record.upload, script, PurePosixPath(".")


def require_secrets(names: Iterable[str]) -> None:
    """Raises: CommandRequestError for a variable that has no value here."""
    for name in names:
        if not os.environ.get(name):
            raise CommandRequestError(
                f"{name}: a secret in {SETTINGS_FILE} that is not set; export it, or remove it there"
                if name != KEY_VARIABLE
                else f"{name}: export the key that clients of the server have to give"
            )


def places(infra: Infra, resources: Resources, settings: Settings) -> list[dict[str, Any]]:
    """Machines, any of which will do. Raises: CommandRequestError for what cannot be had."""
    machine = _machine(infra, resources)
    if infra.cloud == "gcp":
        return [_on_gcp(infra.text, machine, gcp_resources(resources, settings))]
    if infra.text:
        return [{"infra": infra.text} | machine]
    found = [{"infra": cloud} | machine for cloud in CHOSEN_BY_SKY]
    has_gcp = settings.gcp_cpus is not None if resources.gpus is None else resources.allow_gcp_gpu
    if has_gcp:
        found.append(_on_gcp("gcp", machine, gcp_resources(resources, settings)))
    return found


def _machine(infra: Infra, resources: Resources) -> dict[str, Any]:
    if resources.time_s is not None:
        raise CommandRequestError("--time: SkyPilot's jobs have no limit; leave it out")
    if len(resources.gpu_choices) > 1:
        raise CommandRequestError(f"--gpu {resources.gpu}: SkyPilot is asked for one kind; give one")
    machine: dict[str, Any] = {}
    if (gpus := resources.gpus) is not None:
        if gpus.kind is None:
            raise CommandRequestError(
                f"--gpu {resources.gpu}: SkyPilot rents GPUs by kind; write for example H100:{gpus.count}"
            )
        machine["accelerators"] = f"{gpus.kind}:{gpus.count}"
    if resources.cpus is not None:
        machine["cpus"] = f"{resources.cpus}+"
    if resources.spot:
        if infra.is_own:
            raise CommandRequestError(f"--spot: {infra} has no such machines; leave it out")
        machine["use_spot"] = True
    return machine


def _on_gcp(text: str, machine: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """A machine type says the cores itself."""
    kept = {key: value for key, value in machine.items() if key != "cpus" or "instance_type" not in more}
    return {"infra": text} | kept | more


def _anywhere(infra: Infra, record: JobRecord) -> dict[str, Any]:
    """What is asked of all places."""
    labels = {"labels": {"wf-job": record.id}}
    if record.resources.spot:
        return {"job_recovery": _RECOVERY} | labels
    if infra.is_slurm:  # has no autostop; see script.py
        return labels
    return {"autostop": {"idle_minutes": IDLE_MINUTES, "down": True}} | labels


def _command(record: JobRecord, upload: str) -> list[str]:
    """A path of one's own machines is from where `wf` was called, which is elsewhere on them."""
    command = list(record.command)
    if "://" not in upload:
        command.append(override(_UPLOAD, upload))
    if (start := record.start_from) is not None and "://" not in start:
        command.append(override(_START, str(Path(record.cwd, start))))
    return command


def _upload(infra: Infra, record: JobRecord) -> str:
    give = f"{_UPLOAD}=gs://BUCKET/PREFIX (or s3://...)"
    if record.upload is None:
        raise CommandRequestError(
            f"--cloud {infra}: its machines keep nothing, and {record.stage} uploads nothing; give "
            f"{give}; a stage without that key is for this machine"
        )
    if not infra.is_own and "://" not in record.upload:
        raise CommandRequestError(f"{_UPLOAD}={record.upload} is a disk of this machine; give {give}")
    return record.upload


def _refuse_local_start(infra: Infra, record: JobRecord) -> None:
    start = record.start_from
    if start is not None and "://" not in start and not infra.is_own:
        raise CommandRequestError(
            f"{record.stage} starts from {start}, which only this machine has; upload it (`wf store put "
            f"{start} URL/NAME`) and give {_START}=URL/NAME"
        )


def _refuse_files_that_stay(infra: Infra, record: JobRecord) -> None:
    root = workspace_root()
    destination = Destination(
        called_from=Path(record.cwd),
        folder=Path(record.cwd),
        has=Checkout(root, files_to_send).has,
        knows=lambda path: infra.is_own,
        fix="name an upload (gs://, s3://), or a file that git has in the checkout",
        other_keys=(_UPLOAD, _START),
    )
    refuse_files_that_stay(record.command, destination)


def _folder_in_checkout(record: JobRecord) -> PurePosixPath:
    """Where `wf` was called, from the top of what machines get."""
    root, folder = workspace_root(), Path(record.cwd).resolve()
    if not folder.is_relative_to(root):
        raise CommandRequestError(f"{folder} is not in the checkout that machines get; call wf in {root}")
    return PurePosixPath(folder.relative_to(root))
