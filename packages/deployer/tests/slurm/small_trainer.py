"""A trainer with the manners of the real one: steps, a checkpoint at SIGTERM (exit code 143), resumption.

A second SIGTERM ends it at once. Ranks agree at each step. Its run is the folder `run` where it was started;
it takes `steps=N`, and `$SAVE_S` says how long it saves.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

STEP_S = 0.2
FOLDER = Path("run").absolute()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def described(arguments: list[str], elsewhere: bool = False) -> dict[str, Any]:
    """What `--describe` prints; tests that start many jobs take it in place of `train.describe`."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    run = {"stage": "stage2", "experiment": "small", "run_folder": str(Path("run").absolute())}
    upload, start_from = given.get("training.checkpoint.upload"), given.get("training.start_from")
    return {**run, "upload": upload, "start_from": start_from, "force": "force=true" in arguments}


def all_reduced(value: int) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    total = torch.tensor(value)
    dist.all_reduce(total)
    return int(total)


def train(num_steps: int) -> int:
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    is_first = os.environ.get("RANK", "0") == "0"
    FOLDER.mkdir(exist_ok=True)
    checkpoint = FOLDER / "step"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    num_processes = all_reduced(1)
    signal.signal(signal.SIGTERM, note)
    host = os.uname().nodename
    say(f"{num_processes} processes, {host} starts at step {step}")
    while step < num_steps:
        time.sleep(STEP_S)
        step += 1
        if all_reduced(len(received)):
            time.sleep(float(os.environ.get("SAVE_S", "1")))  # long enough for a second signal to do harm
            if is_first:
                checkpoint.write_text(str(step))
            all_reduced(0)
            say(f"{host} saved at step {step}")
            return 143
    say(f"{host} done at step {step}")
    return 0


if __name__ == "__main__":
    if "--describe" in sys.argv:
        say(json.dumps(described(sys.argv)))
        sys.exit(0)
    steps = next(argument.partition("=")[2] for argument in sys.argv if argument.startswith("steps="))
    sys.exit(train(int(steps)))
