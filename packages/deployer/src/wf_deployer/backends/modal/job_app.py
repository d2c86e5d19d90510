"""The Modal app of one job of WrinkleFree, written by `wf train --cloud modal` and `wf eval --cloud modal`.

1. The image is Debian with uv, g++ and the checkout, whose environment `uv sync` makes as anywhere else.
2. `train` starts the job's processes on the volume, and watches them: each saved checkpoint (its manifest is
   there) is committed, since other containers see of a volume what was committed, no more; so is the end.
3. They are asked to save and end (SIGTERM) `grace_s` before the time limit, when `wf cancel` asks (a tag of
   the app), and when Modal takes the machine away (SIGINT).
4. A start that got somewhere fails by an exception, so that Modal starts the next one (`retries`), in a new
   container, where training goes on from its checkpoint. One that saved nothing would fail again: it ends.

One container at a time writes, below its own run folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import modal
from wf_deployer.backends.modal.image_part import CHECKOUT, image

JOB: dict[str, Any] = {}

OUTPUTS = "/outputs"
LOOK_EVERY_S = 1.0
ASK_EVERY_S = 10.0
INTERRUPTED_S = 25.0
"""Modal kills a container 30 s after its SIGINT."""

app = modal.App(JOB["name"], tags=JOB["tags"])
volume = modal.Volume.from_name(JOB["volume"], create_if_missing=True)


@app.function(  # type: ignore[untyped-decorator]  # modal is not beside our checkers
    image=image(JOB["sends_inputs"]),
    gpu=JOB["gpu"] or None,
    cpu=JOB["cpus"],
    timeout=JOB["timeout_s"],
    retries=modal.Retries(max_retries=JOB["retries"], initial_delay=0.0),
    single_use_containers=True,
    max_containers=1,
    volumes={OUTPUTS: volume},
    secrets=[modal.Secret.from_name(name, required_keys=keys) for name, keys in JOB["secrets"].items()],
)
def train() -> dict[str, Any]:
    """Runs the job once. Returns: its exit code (as of subprocess), whether it was cancelled, when it ended.

    Raises: RuntimeError to be started again.
    """
    start_s = time.monotonic()
    if is_cancelled():
        return ended(signal.SIGTERM + 128, cancelled=True)
    before = saved()
    say(f"starts with {len(before)} saved parts in {JOB['run']} of the volume {JOB['volume']}")
    process = subprocess.Popen(JOB["command"], cwd=CHECKOUT, start_new_session=True)
    try:
        asked = watch(process, start_s + JOB["timeout_s"] - JOB["grace_s"], before)
    except BaseException:  # SIGINT: the machine is taken away; the call was cancelled by force
        say("interrupted; asking the job to save and end")
        stop(process)
        commit()
        raise
    volume.commit()
    code = process.returncode
    say(f"the job ended with exit code {code}")
    if code == 0 or asked == "cancel" or JOB["retries"] == 0:
        return ended(code, cancelled=asked == "cancel")
    if asked == "time" or saved() - before:
        raise RuntimeError(f"the job ended with exit code {code} after it had saved; it goes on from there")
    return ended(code, cancelled=False)


def watch(process: subprocess.Popen[bytes], deadline_s: float, before: set[tuple[str, int]]) -> str | None:
    """Until the job ends. Returns: why it was asked to ("cancel", "time"), if it was."""
    asked: str | None = None
    committed, looked_s = before, time.monotonic()
    while process.poll() is None:
        time.sleep(LOOK_EVERY_S)
        if (now := saved()) != committed:
            committed = now if commit() else committed
        if asked is None and time.monotonic() >= deadline_s:
            asked = "time"
            say("the time limit is near; asking the job to save and end")
            ask(process)
        if asked is None and time.monotonic() - looked_s >= ASK_EVERY_S:
            looked_s = time.monotonic()
            if is_cancelled():
                asked = "cancel"
                say("asked to stop; asking the job to save and end")
                ask(process)
    return asked


def saved() -> set[tuple[str, int]]:
    """What a further start would go on from: manifests of checkpoints, of finished parts, of the result."""
    run = Path(OUTPUTS, JOB["run"])
    patterns = ("checkpoints/[!.]*/manifest.json", "parts/[!.]*/manifest.json", "final/manifest.json")
    found = set()
    for path in (path for pattern in patterns for path in run.glob(pattern)):
        with suppress(FileNotFoundError):  # an old checkpoint that was removed meanwhile
            found.add((str(path), path.stat().st_mtime_ns))
    return found


def commit() -> bool:
    """False: not now; the commit at the end of `train` has to succeed."""
    try:
        volume.commit()
    except (modal.exception.Error, RuntimeError) as error:
        say(f"the volume was not committed, which is tried again: {error}")
        return False
    return True


def is_cancelled() -> bool:
    try:
        return "wf-cancel" in app.get_tags()
    except modal.exception.Error as error:
        say(f"cannot see whether the job was cancelled, which is tried again: {error}")
        return False


def ask(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, once, to each process of the job; its torchrun or shell ends after them."""
    for pid in children(process.pid) if JOB["several"] else [process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            after_name = stat.read_text(errors="replace").rpartition(")")[2]
            if int(after_name.split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks, and waits for as long as Modal lets us."""
    if process.poll() is None:
        ask(process)
        try:
            process.wait(INTERRUPTED_S)
        except subprocess.TimeoutExpired:
            say(f"the job has not ended within {INTERRUPTED_S:.0f} s")
            process.kill()


def ended(code: int, cancelled: bool) -> dict[str, Any]:
    return {"returncode": code, "cancelled": cancelled, "ended_s": time.time()}


def say(text: str) -> None:
    print(f"wf: {text}", flush=True)  # noqa: T201  # its log
