"""Entry point: one stage of training from a Hydra configuration.

    python -m wrinklefree.train model=smollm2_135m training=stage2_pretrain [key=value ...]

Exit codes: 0 done (or done before), 1 the run failed or cannot start, 2 the configuration is wrong,
143 / 130 stopped by SIGTERM / SIGINT with a checkpoint (start it again to resume).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from wrinklefree.config import ConfigError, Stage, TrainConfig, compose_config
from wrinklefree.config.compose import compose_dictconfig, group_options

if TYPE_CHECKING:
    from wrinklefree.auto_setup import StartPoint
    from wrinklefree.identity import RunIdentity
    from wrinklefree.run_folder import RunFolder

LOG = logging.getLogger("wrinklefree")
GROUPS = ("training", "model", "data", "optimizer", "distributed", "logging")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        if arguments.cfg:
            sys.stdout.write(OmegaConf.to_yaml(compose_dictconfig(arguments.overrides)))
            return 0
        config = compose_config(arguments.overrides)
    except ConfigError as error:
        sys.stderr.write(f"configuration error: {error}\n")
        return 2
    return _train(config)


def _train(config: TrainConfig) -> int:
    # Imported late, so that --help and configuration errors do not wait for torch.
    from bitnet_arch import CheckpointError, UnsupportedModelError
    from data_handler import DataError
    from wrinklefree.checkpoints.manifest import DamagedCheckpointError
    from wrinklefree.errors import RunError

    expected = (
        RunError,
        DamagedCheckpointError,
        CheckpointError,
        UnsupportedModelError,
        DataError,
        FloatingPointError,
    )
    try:
        return run_stage(config)
    except expected as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def run_stage(config: TrainConfig) -> int:
    """Run one stage in its folder, unless it is complete there. Returns the exit code."""
    import lightning as L
    import torch
    import transformers

    from wrinklefree.auto_setup import find_start, run_path
    from wrinklefree.identity import identify
    from wrinklefree.run_folder import RunFolder

    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    hf_logging: Any = transformers.utils.logging
    hf_logging.disable_progress_bar()
    L.seed_everything(config.seed, verbose=False)
    # A debugging aid of the deterministic mode that writes NaN into every new tensor first.
    deterministic_mode: Any = torch.utils.deterministic
    deterministic_mode.fill_uninitialized_memory = False
    run = RunFolder(run_path(config, config.training.stage))
    start = find_start(config)
    identity = identify(config, start.digest, Path(__file__).parent)
    if not _is_first_process():
        one_process_is_enough = config.training.stage in (Stage.stage1, Stage.stage1_5)
        if one_process_is_enough or (run.is_complete and not config.force):
            return 0
        return _run_incomplete(config, run, start, identity)
    with run.lock():
        if config.force:
            run.move_aside()
        run.check(identity)
        if run.is_complete:
            run.parts.remove()
            LOG.info("this run is complete: %s (force=true runs it again)", run.final)
            summary = _summary(config, run, "complete", run.figures())
            run.write_summary(summary)
            _print_summary(summary | {"status": "already complete"})
            return 0
        if identity.git.dirty:
            LOG.warning("training with uncommitted changes: the commit alone cannot reproduce this")
        run.store_identity(identity)
        run.remove_leftovers()
        return _run_incomplete(config, run, start, identity)


def _run_incomplete(config: TrainConfig, run: RunFolder, start: StartPoint, identity: RunIdentity) -> int:
    from wrinklefree.calibration_stage import run_calibration
    from wrinklefree.conversion_stage import run_conversion
    from wrinklefree.training_stage import run_training

    meta = _meta(config, identity, start)
    signal_number = None
    if config.training.stage is Stage.stage1:
        figures = run_conversion(config, run.final, meta)
    elif config.training.stage is Stage.stage1_5:
        assert start.folder is not None
        figures = run_calibration(config, run, start.folder, meta)
    else:
        assert start.folder is not None
        fit = run_training(config, run, start.folder, meta)
        figures, signal_number = fit.summary, fit.signal
    if not _is_first_process():
        return 0
    status = "complete" if signal_number is None else "stopped"
    summary = _summary(config, run, status, figures)
    run.write_summary(summary)
    _print_summary(summary)
    return 0 if signal_number is None else 128 + signal_number


def _meta(config: TrainConfig, identity: RunIdentity, start: StartPoint) -> dict[str, Any]:
    """Entries of wrinklefree.json that every checkpoint of the run has.

    "source", the dense model at the beginning, goes from stage to stage: exports take name and
    licence from it.
    """
    origin = {} if start.origin is None else {"source": start.origin}
    return origin | {
        "stage": config.training.stage.value,
        "fingerprint": identity.fingerprint,
        "git": {"commit": identity.git.commit, "dirty": identity.git.dirty},
    }


def _summary(config: TrainConfig, run: RunFolder, status: str, figures: dict[str, Any]) -> dict[str, Any]:
    names = {"stage": config.training.stage.value, "experiment": config.experiment}
    return {**names, "status": status, **figures, "run_folder": str(run.path)}


def _is_first_process() -> bool:
    """Whether this is rank 0, before torch.distributed is up (Lightning or torchrun set these)."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _print_summary(summary: dict[str, Any]) -> None:
    """One machine-readable line."""
    sys.stdout.write(f"summary: {json.dumps(summary)}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    groups = "\n".join(f"  {group}: {', '.join(group_options(group))}" for group in GROUPS)
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        epilog=f"config groups (group=option):\n{groups}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as training.max_steps=9")
    parser.add_argument("--cfg", action="store_true", help="print the configuration and leave")
    return parser


if __name__ == "__main__":
    sys.exit(main())
