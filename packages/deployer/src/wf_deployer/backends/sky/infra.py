"""Where SkyPilot runs a job, as `--cloud` says it: `nebius`, `gcp/us-central1`, `sky`, `sky:slurm/mine`.

A cloud's name alone is SkyPilot's, but for `slurm`, which is plain sbatch: SkyPilot reaches a Slurm cluster
as `sky:slurm`. What follows `sky:` is SkyPilot's own CLOUD[/REGION[/ZONE]]; `sky` alone lets it choose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wf_deployer.errors import CommandRequestError
from wf_formats.printable import printable

VERSION = "0.14"
"""Of SkyPilot; its API server and client have to agree."""
CLOUDS = (
    *(
        "aws",
        "azure",
        "gcp",
        "ibm",
        "lambda",
        "scp",
        "oci",
        "kubernetes",
        "runpod",
        "vast",
        "vsphere",
        "cudo",
    ),
    *("fluidstack", "paperspace", "primeintellect", "do", "nebius", "ssh", "slurm", "hyperbolic", "seeweb"),
    *("shadeform", "yotta", "mithril", "verda"),
)
"""That SkyPilot knows (`sky.skylet.constants.ALL_CLOUDS`)."""
OWN_MACHINES = ("slurm", "kubernetes", "ssh")
CHOSEN_BY_SKY = tuple(cloud for cloud in CLOUDS if cloud not in (*OWN_MACHINES, "gcp"))
"""What `sky` alone may choose: not one's own machines, and GCP by rules of its own (gcp.py)."""
_INSTALLED = ("aws", "gcp", "kubernetes", "lambda", "nebius", "runpod", "slurm")
_PLACE = re.compile(r"[A-Za-z0-9_.@:-]+(/[A-Za-z0-9_.@:-]+)*", re.ASCII)


@dataclass(frozen=True)
class Infra:
    """Attributes: text is as SkyPilot takes it; empty: it chooses."""

    text: str

    @property
    def cloud(self) -> str:
        return self.text.partition("/")[0]

    @property
    def is_slurm(self) -> bool:
        """The nodes of a job see one home, and SkyPilot does not end idle machines."""
        return self.cloud == "slurm"

    @property
    def is_own(self) -> bool:
        """Machines of one's own, which may see the same disks as this one."""
        return self.cloud in OWN_MACHINES

    @property
    def requirement(self) -> str:
        """One environment for the usual clouds: SkyPilot's server, which the first command starts, is one."""
        extras = sorted({*_INSTALLED, *([self.cloud] if self.cloud else [])})
        return f"skypilot[{','.join(extras)}]=={VERSION}.*"

    def __str__(self) -> str:
        """The name of `--cloud`."""
        return f"sky:{self.text}" if self.text else "sky"


def infra_of(name: str) -> Infra | None:
    """None: not a name for SkyPilot.

    Raises:
        CommandRequestError: it is one for SkyPilot, which has no such cloud.
    """
    if name == "sky":
        return Infra("")
    kind, colon, place = name.partition(":")
    text = place if kind == "sky" and colon else name
    cloud, slash, region = text.partition("/")
    cloud = "kubernetes" if cloud.lower() == "k8s" else cloud.lower()
    if cloud in CLOUDS and (kind == "sky" or cloud != "slurm") and (not slash or _PLACE.fullmatch(region)):
        return Infra(f"{cloud}{slash}{region}")
    if kind == "sky" and colon:
        raise CommandRequestError(
            f"--cloud {printable(name)!r}: SkyPilot has no {printable(place)!r}; write sky:CLOUD or "
            f"sky:CLOUD/REGION with one of {', '.join(CLOUDS)}"
        )
    return None
