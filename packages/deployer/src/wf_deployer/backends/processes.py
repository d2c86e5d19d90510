"""What the trainer has to know of the processes that a back end starts for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wf_deployer.backends.base import Resources
from wf_deployer.errors import CommandRequestError

_COUNTED = re.compile(r"\+{0,2}(distributed\.(?:devices|num_nodes))=")
_GROUP = re.compile(r"\+{0,2}distributed(?:\.kind)?=")
_ACCELERATOR = re.compile(r"\+{0,2}distributed\.accelerator=")


def distributed_overrides(resources: Resources, given: Sequence[str]) -> list[str]:
    """Overrides for several processes: how many, DDP unless `given` says fsdp, and GPUs if asked for.

    One process gets none: stages that cannot be distributed refuse them.

    Raises:
        CommandRequestError: `given` counts the processes as well.
    """
    if resources.num_processes == 1:
        return []
    for override in given:
        if match := _COUNTED.match(override):
            raise CommandRequestError(f"{override}: leave it out; --gpu and --num-nodes give {match[1]}")
    kind = [] if any(map(_GROUP.match, given)) else ["distributed=ddp"]
    wants_gpus = resources.gpus is not None and not any(map(_ACCELERATOR.match, given))
    return [
        *kind,
        f"distributed.devices={resources.processes_per_node}",
        f"distributed.num_nodes={resources.num_nodes}",
        *(["distributed.accelerator=gpu"] if wants_gpus else []),
    ]
