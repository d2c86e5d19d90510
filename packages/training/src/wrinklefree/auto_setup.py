"""Where a stage starts: the dense model, or the finished checkpoint of a previous stage.

The previous stage is looked for in the same experiment, in the order of `training.accept_from`;
what was looked for is part of the error when nothing is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wrinklefree.checkpoints.manifest import manifest_digest, verify_manifest
from wrinklefree.checkpoints.store import CheckpointStore
from wrinklefree.config.schema import Stage, TrainConfig
from wrinklefree.errors import RunError

STAGE_CONFIGS = {
    Stage.stage1: "stage1_subln",
    Stage.stage1_9: "stage1_9_layerwise",
    Stage.stage2: "stage2_pretrain",
}


@dataclass(frozen=True)
class StartPoint:
    """folder: verified checkpoint to start from, None for the dense model; digest names its contents."""

    folder: Path | None
    digest: str | None


def run_path(config: TrainConfig, stage: Stage) -> Path:
    return Path(config.output_dir).absolute() / config.experiment / stage.value


def find_start(config: TrainConfig) -> StartPoint:
    """Raises: RunError (nothing to start from), DamagedCheckpointError."""
    training = config.training
    if training.start_from is not None:
        return _start_at(Path(training.start_from).absolute())
    if not training.accept_from:
        return StartPoint(None, None)
    for stage in training.accept_from:
        folder = run_path(config, stage) / "final"
        if folder.is_dir():
            return _start_at(folder)
    raise RunError(_nothing_found(config))


def _start_at(folder: Path) -> StartPoint:
    if not folder.is_dir():
        raise RunError(f"training.start_from: there is no folder {folder}")
    verify_manifest(folder)
    return StartPoint(folder, manifest_digest(folder))


def _nothing_found(config: TrainConfig) -> str:
    training = config.training
    looked = "\n".join(f"  {_state(config, stage)}" for stage in training.accept_from)
    first = STAGE_CONFIGS[training.accept_from[0]]
    return (
        f"{training.stage.value} of experiment '{config.experiment}' starts from the result of "
        f"{' or '.join(s.value for s in training.accept_from)}, and there is none. Looked for:\n"
        f"{looked}\n"
        f"Run training={first} experiment={config.experiment} first, or give a checkpoint folder "
        "with training.start_from=FOLDER."
    )


def _state(config: TrainConfig, stage: Stage) -> str:
    run = run_path(config, stage)
    if not (run / "run.json").is_file():
        return f"{run / 'final'} (no run of {stage.value} was started there)"
    steps = CheckpointStore(run / "checkpoints").steps()
    progress = f"its newest checkpoint is step {steps[-1]}" if steps else "without a checkpoint yet"
    return f"{run / 'final'} (the run was started but is not finished, {progress})"
