"""Names of a checkpoint's files besides the model's own."""

from __future__ import annotations

from pathlib import Path

from wf_formats.run_files import FIGURES_FILE, MANIFEST_FILE
from wf_formats.targets import checkpoint_kind
from wrinklefree.checkpoints.manifest import DamagedCheckpointError

WEIGHTS, OPTIMIZER = "model", "optimizer"
"""What the files of tensors are called, one or several."""
TRAINER_FILE = "trainer.json"
_SEVERAL = "{stem}-{number}-of-{count}.safetensors"
CHECKPOINT = checkpoint_kind(
    f"{OPTIMIZER}.safetensors",
    _SEVERAL.format(stem=OPTIMIZER, number="?" * 5, count="?" * 5),
    TRAINER_FILE,
    MANIFEST_FILE,
    FIGURES_FILE,
)


def part_name(stem: str, number: int, count: int) -> str:
    """Of one of `count` files, from 1."""
    if count == 1:
        return f"{stem}.safetensors"
    return _SEVERAL.format(stem=stem, number=f"{number:05d}", count=f"{count:05d}")


def stored_parts(folder: Path, stem: str) -> list[Path]:
    """The files of `stem`. Raises: DamagedCheckpointError where one is missing."""
    found = sorted(folder.glob(_SEVERAL.format(stem=stem, number="?" * 5, count="?" * 5)))
    count = int(found[0].stem[-5:]) if found else 1
    parts = [folder / part_name(stem, number, count) for number in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise DamagedCheckpointError(f"{folder} is damaged: {part.name} is missing")
    return parts
