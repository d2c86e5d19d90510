"""GCP: GPUs are rented only on request, CPUs only within the quota that `.wf.toml` gives.

A new project's quota is small; a launch above it fails after minutes of trying regions.
"""

from __future__ import annotations

from typing import Any

from wf_deployer.backends.base import Resources
from wf_deployer.backends.sky.settings import SETTINGS_FILE, Settings
from wf_deployer.errors import CommandRequestError

_SIZES = (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)
"""Cores of n2-standard-N: cloud.google.com/compute/docs/general-purpose-machines."""


def gcp_resources(resources: Resources, settings: Settings) -> dict[str, Any]:
    """What to ask GCP for.

    Raises:
        CommandRequestError: GPUs without --allow-gcp-gpu; cores beyond the quota, or no quota given.
    """
    if resources.gpus is not None:
        if not resources.allow_gcp_gpu:
            raise CommandRequestError(
                f"--gpu {resources.gpu}: GPUs on GCP are rented only with --allow-gcp-gpu; add it, or choose "
                "another --cloud"
            )
        return {}
    if settings.gcp_cpus is None:
        raise CommandRequestError(
            "--cloud gcp: say how many cores of n2-standard your quota allows: gcp_cpus = 24 below [sky] in "
            f"{SETTINGS_FILE}"
        )
    return {"instance_type": f"n2-standard-{_cores(resources, settings.gcp_cpus)}"}


def _cores(resources: Resources, quota: int) -> int:
    told = f"gcp_cpus = {quota} in {SETTINGS_FILE}"
    nodes = "" if resources.num_nodes == 1 else f" on each of {resources.num_nodes} nodes"
    allowed = [size for size in _SIZES if size * resources.num_nodes <= quota]
    if not allowed:
        raise CommandRequestError(
            f"{told} leaves fewer than {_SIZES[0]} cores{nodes or ' to a node'}; raise it"
        )
    if resources.cpus is None:
        return allowed[-1]
    if resources.cpus not in allowed:
        sizes = ", ".join(map(str, allowed))
        raise CommandRequestError(f"--cpus {resources.cpus}: {told} allows {sizes}{nodes}; give one of them")
    return resources.cpus
