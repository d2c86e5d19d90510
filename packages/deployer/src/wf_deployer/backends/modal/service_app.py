"""The Modal app of one service of WrinkleFree, written by `wf serve --cloud modal`.

1. The image is Debian with uv, g++ and the checkout, whose environment `uv sync` makes as anywhere else.
2. A model that was sent along lies in a volume, which containers only read; others are fetched by them.
3. Modal starts a container when requests come, hands them to the server in it, and ends it when it was idle.
"""

from __future__ import annotations

import subprocess
from typing import Any

import modal
from wf_deployer.backends.modal.image_part import CHECKOUT, image

JOB: dict[str, Any] = {}

MODEL = "/model"
READY_WITHIN_S = 3600
"""Fetching the model and loading it."""
LONGEST_REQUEST_S = 3600

app = modal.App(JOB["name"], tags=JOB["tags"])
volumes = {}
if JOB["volume"]:
    volume = modal.Volume.from_name(JOB["volume"], create_if_missing=True)
    volumes[MODEL] = volume.with_mount_options(read_only=True, sub_path=JOB["folder"])


@app.function(  # type: ignore[untyped-decorator]  # modal is not beside our checkers
    image=image(),
    gpu=JOB["gpu"] or None,
    cpu=JOB["cpus"],
    timeout=LONGEST_REQUEST_S,
    startup_timeout=READY_WITHIN_S,
    min_containers=JOB["min_containers"],
    max_containers=JOB["max_containers"],
    scaledown_window=JOB["scaledown_window_s"],
    volumes=volumes,
    secrets=[modal.Secret.from_name(name, required_keys=keys) for name, keys in JOB["secrets"].items()],
)
@modal.concurrent(max_inputs=JOB["max_inputs"])  # type: ignore[untyped-decorator]
@modal.web_server(JOB["port"], startup_timeout=READY_WITHIN_S)  # type: ignore[untyped-decorator]
def serve() -> None:
    """Starts the server; Modal waits for its port."""
    subprocess.Popen(["bash", "-c", JOB["start"]], cwd=CHECKOUT)
