"""Keys of services: there or not. Their values, and anything about them, are left alone."""

from __future__ import annotations

import netrc
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wf_deployer.doctor.base import Finding, Status
from wf_deployer.doctor.workspace.checkout import Workspace


@dataclass(frozen=True)
class Service:
    """Attributes: files are below the home folder; host is its entry of ~/.netrc."""

    name: str
    purpose: str
    variables: tuple[str, ...]
    files: tuple[str, ...]
    fix: str
    host: str | None = None


SERVICES = (
    Service(
        "huggingface",
        "gated models",
        ("HF_TOKEN",),
        (".cache/huggingface/token",),
        "`hf auth login`, or HF_TOKEN",
    ),
    Service(
        "wandb", "Weights & Biases", ("WANDB_API_KEY",), (), "`wandb login`, or WANDB_API_KEY", "api.wandb.ai"
    ),
    Service(
        "aws",
        "s3:// and machines of AWS",
        ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (".aws/credentials", ".aws/config"),
        "`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    Service(
        "gcs",
        "gs:// and machines of Google",
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        (".config/gcloud/application_default_credentials.json",),
        "`gcloud auth application-default login`",
    ),
    Service("modal", "Modal", ("MODAL_TOKEN_ID",), (".modal.toml",), "`uv tool run modal setup`"),
    Service(
        "runpod",
        "RunPod",
        ("RUNPOD_API_KEY", "RUNPOD_AI_API_KEY"),
        (".runpod/config.toml",),
        "`runpod config`",
    ),
    Service(
        "nebius",
        "Nebius",
        ("NEBIUS_IAM_TOKEN",),
        (".nebius/credentials.json", ".nebius/config.yaml"),
        "`nebius profile create`",
    ),
)


def services(workspace: Workspace) -> Iterator[Finding]:
    """Whether there are keys, and where; nothing of their contents is kept."""
    for service in SERVICES:
        sources = [name for name in service.variables if os.environ.get(name)]
        sources += [f"~/{name}" for name in service.files if _is_there(_home() / name)]
        if service.host is not None and service.host in _netrc_hosts():
            sources.append("~/.netrc")
        if sources:
            yield Finding(
                Status.ok, f"present: {service.purpose}", source=", ".join(sources), part=service.name
            )
        else:
            found = f"absent: {service.purpose}"
            yield Finding(Status.skip, found, "", service.fix, ", ".join(service.variables), service.name)
    yield from _ssh_keys()


def _ssh_keys() -> Iterator[Finding]:
    folder = _home() / ".ssh"
    try:
        keys = sorted(path for path in folder.glob("id_*") if path.suffix != ".pub" and path.is_file())
        exposed = [path.name for path in keys if stat.S_IMODE(path.stat().st_mode) & 0o077]
    except OSError as error:
        yield Finding(
            Status.warn, f"{folder}: {error.strerror}", "readable by you", f"`chmod 700 {folder}`", part="ssh"
        )
        return
    if exposed:
        found, fix = f"{', '.join(exposed)} can be read by others", f"`chmod 600 {folder}/{exposed[0]}`"
        yield Finding(Status.warn, found, "readable by you alone: ssh refuses it", fix, str(folder), "ssh")
    elif keys or os.environ.get("SSH_AUTH_SOCK"):
        names = ", ".join(path.name for path in keys) or "an agent"
        yield Finding(Status.ok, f"present: {names}", source=str(folder), part="ssh")
    else:
        yield Finding(
            Status.skip, "absent: machines over ssh", "", "`ssh-keygen -t ed25519`", str(folder), "ssh"
        )


def _home() -> Path:
    """A user without one has no files there."""
    return Path(os.path.expanduser("~"))


def _is_there(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _netrc_hosts() -> list[str]:
    try:
        return list(netrc.netrc(str(_home() / ".netrc")).hosts)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return []
