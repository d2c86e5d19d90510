"""What a job asks of Modal: from `Resources`, and from variables of the environment (`WF_MODAL_*`).

Modal's client checks neither kinds of GPUs nor times nor retries; its servers do, after the image is built.
Limits as of modal 1.6: modal.com/docs/guide/gpu, modal.com/docs/guide/timeouts.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from wf_deployer.backends.base import Gpus, Resources
from wf_deployer.backends.service import KEY_VARIABLE
from wf_deployer.errors import CommandRequestError
from wf_formats.printable import printable

_MOST_OF_A_KIND = {
    "T4": 8,
    "L4": 8,
    "A10": 4,
    "L40S": 8,
    "A100": 8,
    "A100-40GB": 8,
    "A100-80GB": 8,
    "RTX-PRO-6000": 8,
    "H100": 8,
    "H200": 8,
    "B200": 8,
}
GRACE_S = 300
"""Seconds before the time limit at which training is asked for its checkpoint."""
_DEFAULT_TIME_S = 8 * 3600
_MOST_TIME_S = 24 * 3600
_DEFAULT_RETRIES, _MOST_RETRIES = 3, 10
_DEFAULT_VOLUME = "wf-outputs"
_DEFAULT_IDLE_S, _MOST_IDLE_S = 300, 3600
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,63}")
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class ModalSettings:
    """Arguments of `modal.App.function`, checked.

    Attributes:
        gpu: Such as ["H100:8", "A100-80GB:8"], the most wanted first; none: CPUs.
        cpus: Cores; None: what Modal gives by default.
        timeout_s: Of each start.
        retries: Starts after the first.
        volume: Name of the one that results go to.
        secrets: Name of a secret of Modal -> the variables that it has to have.
    """

    gpu: list[str]
    cpus: int | None
    timeout_s: int
    retries: int
    volume: str
    secrets: dict[str, list[str]]


@dataclass(frozen=True)
class ModalServiceSettings:
    """As above, of a service; idle_s as `scaledown_window`."""

    gpu: list[str]
    cpus: int | None
    scaledown_window_s: int
    secrets: dict[str, list[str]]


def service_settings_of(resources: Resources, idle_s: int | None) -> ModalServiceSettings:
    """Raises: CommandRequestError for what Modal cannot give; names it."""
    _refuse_spot(resources)
    secrets = _secrets(os.environ.get("WF_MODAL_SECRETS", ""))
    if not any(KEY_VARIABLE in keys for keys in secrets.values()):
        raise CommandRequestError(
            f"WF_MODAL_SECRETS names no secret with {KEY_VARIABLE}, the key of clients: `uv tool run modal "
            f"secret create wf-serve {KEY_VARIABLE}=...`, then WF_MODAL_SECRETS=wf-serve:{KEY_VARIABLE}"
        )
    window_s = _DEFAULT_IDLE_S if idle_s is None else idle_s
    if not 2 <= window_s <= _MOST_IDLE_S:
        raise CommandRequestError(f"--idle of {window_s} s: Modal takes 2s to 60m")
    return ModalServiceSettings(
        gpu=[_gpu(choice) for choice in resources.gpu_choices],
        cpus=resources.cpus,
        scaledown_window_s=window_s,
        secrets=secrets,
    )


def _refuse_spot(resources: Resources) -> None:
    if resources.spot:
        raise CommandRequestError("--spot: each machine of Modal may be taken away; leave it out")


def settings_of(resources: Resources) -> ModalSettings:
    """Raises: CommandRequestError for what Modal cannot give; names it."""
    if resources.num_nodes != 1:
        raise CommandRequestError(
            f"--num-nodes {resources.num_nodes}: on Modal a job is one machine, since others do not see the "
            "files of a run while it goes on; leave it out (up to --gpu H100:8), or use --cloud slurm"
        )
    _refuse_spot(resources)
    return ModalSettings(
        gpu=[_gpu(choice) for choice in resources.gpu_choices],
        cpus=resources.cpus,
        timeout_s=_timeout_s(resources.time_s),
        retries=_retries(os.environ.get("WF_MODAL_RETRIES")),
        volume=_volume(os.environ.get("WF_MODAL_VOLUME") or _DEFAULT_VOLUME),
        secrets=_secrets(os.environ.get("WF_MODAL_SECRETS", "")),
    )


def _gpu(gpus: Gpus) -> str:
    if gpus.kind is None:
        raise CommandRequestError(f"--gpu {gpus.count}: Modal wants a kind, such as H100:{gpus.count}")
    kind = gpus.kind.upper()
    if kind not in _MOST_OF_A_KIND:
        raise CommandRequestError(
            f"--gpu {gpus.kind}:{gpus.count}: Modal has no {gpus.kind}; it has {', '.join(_MOST_OF_A_KIND)}"
        )
    if gpus.count > (most := _MOST_OF_A_KIND[kind]):
        raise CommandRequestError(
            f"--gpu {gpus.kind}:{gpus.count}: Modal has up to {most} in a machine; write {kind}:{most}"
        )
    return f"{kind}:{gpus.count}"


def _timeout_s(time_s: int | None) -> int:
    if time_s is None:
        return _DEFAULT_TIME_S
    if not 2 * GRACE_S <= time_s <= _MOST_TIME_S:
        raise CommandRequestError(
            f"--time of {time_s} s: on Modal a start has up to 24 h, and its last {GRACE_S // 60} minutes "
            f"are for the checkpoint; give {2 * GRACE_S // 60}m to 24h (WF_MODAL_RETRIES starts it again)"
        )
    return time_s


def _retries(text: str | None) -> int:
    if text is None:
        return _DEFAULT_RETRIES
    if not re.fullmatch(r"\d{1,2}", text, re.ASCII) or int(text) > _MOST_RETRIES:
        raise CommandRequestError(
            f"WF_MODAL_RETRIES={printable(text)!r}: give 0 to {_MOST_RETRIES}, or unset it "
            f"({_DEFAULT_RETRIES})"
        )
    return int(text)


def _volume(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CommandRequestError(
            f"WF_MODAL_VOLUME={printable(name)!r} is no name of a volume: letters, digits, '-', '_' and '.'"
        )
    return name


def _secrets(text: str) -> dict[str, list[str]]:
    """`huggingface:HF_TOKEN aws:AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY`."""
    secrets: dict[str, list[str]] = {}
    for word in text.split():
        name, _, variables = word.partition(":")
        keys = variables.split(",")
        if not _NAME.fullmatch(name) or not all(map(_VARIABLE.fullmatch, keys)):
            raise CommandRequestError(
                "WF_MODAL_SECRETS: write the names of Modal's secrets and of the variables that each has, "
                "such as huggingface:HF_TOKEN; values stay with Modal (`uv tool run modal secret create`)"
            )
        secrets[name] = keys
    return secrets
