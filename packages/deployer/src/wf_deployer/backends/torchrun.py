"""The agent that starts the training processes of a node, as the scripts of clusters call it."""

from __future__ import annotations

import shlex

from wf_deployer.backends.base import Resources


def torchrun(python: str, resources: Resources, rendezvous: str) -> str:
    """A command of bash to put before the trainer's. A process that fails ends the job, since its peers
    cannot go on without it.

    TERM is not the agent's to pass on: the trainer gets it from whoever asks, and takes a second one for "at
    once". The shell around it ignores TERM, the trainer does not.

    Args:
        python: The interpreter, as bash writes it.
        rendezvous: Options that say where the agents meet, as bash writes them.
    """
    options = [
        f"--nnodes={resources.num_nodes}",
        f"--nproc-per-node={resources.processes_per_node}",
        "--max-restarts=0",
        "--signals-to-handle=SIGINT,SIGHUP,SIGQUIT",
        "--rdzv-backend=c10d",
    ]
    agent = f"{python} -m torch.distributed.run {shlex.join(options)}"
    return f"{agent} {rendezvous} --no-python env --default-signal=TERM"
