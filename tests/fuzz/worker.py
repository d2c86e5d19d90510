"""Reads damaged inputs of one kind in a process of its own; one line of JSON for each on stdout.

    python worker.py SAMPLES KIND SEED FIRST COUNT FOLDER

The parent (test_fuzz.py) sees hangs and crashes by the lines that do not come.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path

from targets import Target, all_targets

from wf_formats.errors import UserError


def run_case(target: Target, name: str, number: int, seed: int, folder: Path) -> dict[str, object]:
    """Damages one file, reads the folder; says what came of it."""
    rng = random.Random(f"{name} {seed} {number}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(target.seeds, folder)
    damaged = folder / rng.choice(target.files)
    damaged.write_bytes(target.mutate(damaged.read_bytes(), rng))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome: dict[str, object] = {"number": number}
    try:
        target.read(folder)
        outcome["outcome"] = "read"
    except UserError:
        outcome["outcome"] = "refused"
    except BaseException:  # noqa: BLE001  # whatever it is, it is the finding
        outcome |= {"outcome": "traceback", "traceback": traceback.format_exc()[-3000:]}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return outcome | {"grown_bytes": grown * 1024}


def main() -> None:
    samples, name, seed, first, count, folder = sys.argv[1:]
    faulthandler.enable()
    warnings.simplefilter("ignore")
    target = all_targets(Path(samples))[name]
    for number in range(int(first), int(first) + int(count)):
        print(json.dumps({"number": number, "outcome": "begun"}), flush=True)  # noqa: T201
        print(json.dumps(run_case(target, name, number, int(seed), Path(folder))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
