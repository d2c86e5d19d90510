"""The order of a run: arguments, configuration, what it starts from, its folder, the stage, the summary."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from wf_formats.plugins import PluginError
from wf_formats.secrets import redacted_value
from wrinklefree.audit.log import SUMMARY_KEY, read_trail, summary_head
from wrinklefree.command_line import parse
from wrinklefree.compose.composing import compose_config, compose_dictconfig
from wrinklefree.compose.roots import TRAIN, Root
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.root import TrainConfig, run_path
from wrinklefree.predecessor import check_start
from wrinklefree.stages.base import Outcome, StageContext
from wrinklefree.stages.registry import stage_of
from wrinklefree.uploads.place import described_upload, upload_url

if TYPE_CHECKING:
    from wrinklefree.auto_setup import StartPoint
    from wrinklefree.identity import RunIdentity
    from wrinklefree.run_folder import RunFolder
    from wrinklefree.uploads.run_uploads import RunUploads

LOG = logging.getLogger("wrinklefree")


def run(argv: Sequence[str] | None, root: Root = TRAIN) -> int:
    """What the command line asks for. Returns the exit code.

    Args: root is the configuration of the application.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        arguments = parse(argv, root)
        if arguments.print_configuration:
            sys.stdout.write(_shown(arguments.overrides, root))
            return 0
        config = compose_config(arguments.overrides, root)
    except PluginError as error:
        raise ConfigError(str(error)) from error
    if arguments.describe:
        sys.stdout.write(json.dumps(_description(config, arguments.elsewhere)) + "\n")
        return 0
    return run_stage(config)


def _shown(overrides: Sequence[str], root: Root) -> str:
    """The composed configuration as YAML."""
    values = OmegaConf.to_container(compose_dictconfig(overrides, root))
    return OmegaConf.to_yaml(redacted_value("", values))


def _description(config: TrainConfig, elsewhere: bool) -> dict[str, Any]:
    """What a run of this configuration would be, and where. Raises: RunError for one that cannot begin."""
    upload, start_from = described_upload(config), None if elsewhere else check_start(config)
    folder = run_path(config, config.training.stage)
    where = {"run_folder": str(folder), "upload": upload, "start_from": start_from}
    return {**_names(config), **where, "force": config.force}


def _names(config: TrainConfig) -> dict[str, str]:
    return {"stage": config.training.stage, "experiment": config.experiment}


def run_stage(config: TrainConfig) -> int:
    """Run one stage in its folder, unless it is complete there. Returns the exit code."""
    from wrinklefree.optimizers import check_device
    from wrinklefree.run_folder import RunFolder
    from wrinklefree.strategies import check_devices, check_precision
    from wrinklefree.uploads.start import holding_start

    _prepare_process(config)
    stage = stage_of(config)
    if not stage.needs_one_process:
        check_devices(config.distributed)
        check_precision(config)
        check_device(config.optimizer, config.distributed)
    run = RunFolder(run_path(config, stage.name))
    run.check_place()
    with holding_start(config, run):
        return _run_in(run, config)


def _run_in(run: RunFolder, config: TrainConfig) -> int:
    from wrinklefree.audit.events import audited
    from wrinklefree.auto_setup import find_start
    from wrinklefree.identity import identify
    from wrinklefree.uploads.run_uploads import RunUploads

    stage, start = stage_of(config), find_start(config)
    identity = identify(config, start.digest, Path(__file__).parent, stage.infrastructure_keys)
    if not config.force:
        identity = run.as_begun(identity, in_its_shares=config.data.num_shares is None)
    uploads = RunUploads(config, run, identity) if upload_url(config) else None
    if uploads is not None and not (run.is_complete or run.has_progress):
        identity = uploads.as_begun()
    opened = None if run.is_complete and not config.force else stage.open(config)
    context = StageContext(config, run, start.folder, _meta(config, identity, start), opened)
    if not _is_first_process():
        if uploads is not None:
            uploads.wait_for_restored()
        if not (stage.needs_one_process or (run.is_complete and not config.force)):
            stage.run(context)
        return 0
    with run.lock():
        if config.force:
            run.move_aside()
        run.check(identity, config.resume.data)
        if uploads is not None:
            _open_uploads(uploads, run, identity)
        if run.is_complete:
            return _report_complete(config, run)
        if identity.git.dirty:
            LOG.warning("training with uncommitted changes: the commit alone cannot reproduce this")
        run.store_identity(identity)
        run.remove_leftovers()
        context = dataclasses.replace(context, uploads=uploads)
        return _report(context, audited(run, config, identity, lambda: stage.run(context)))


def _open_uploads(uploads: RunUploads, run: RunFolder, identity: RunIdentity) -> None:
    """Where the run has nothing it takes what is uploaded; a result that is not uploaded yet is."""
    from wrinklefree.uploads.uploader import upload

    uploads.prepare()
    if run.is_complete:
        upload(uploads, run.final)
    elif not run.has_progress:
        uploads.restore()
        run.store_identity(identity)
    uploads.record()


def _prepare_process(config: TrainConfig) -> None:
    """Threads, seeds and progress bars of the libraries."""
    import lightning as L
    import torch
    import transformers
    from lightning.pytorch.utilities import rank_zero_only

    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    hf_logging: Any = transformers.utils.logging
    hf_logging.disable_progress_bar()
    # Lightning would take it from the variables of a batch system too, see strategies.cluster_environment.
    rank_zero_only.rank = 0 if _is_first_process() else 1  # type: ignore[attr-defined]
    L.seed_everything(config.seed, verbose=False)
    # A debugging aid of the deterministic mode that writes NaN into every new tensor first.
    deterministic_mode: Any = torch.utils.deterministic
    deterministic_mode.fill_uninitialized_memory = False


def _report_complete(config: TrainConfig, run: RunFolder) -> int:
    run.parts.remove()
    LOG.info("this run is complete: %s (force=true runs it again)", run.final)
    if config.resume.data is not None:
        LOG.warning(run.nothing_to_resume(config.resume.data))
    head = summary_head(run.path) or read_trail(run.path).head  # nothing is added to the log
    summary = _summary(config, run, "complete", run.figures(), head)
    run.write_summary(summary)
    _print_summary(summary | {"status": "already complete"})
    return 0


def _report(context: StageContext, outcome: Outcome) -> int:
    status = "complete" if outcome.signal is None else "stopped"
    head = read_trail(context.run.path).head
    summary = _summary(context.config, context.run, status, outcome.figures, head)
    context.run.write_summary(summary)
    _print_summary(summary)
    return 0 if outcome.signal is None else 128 + outcome.signal


def _meta(config: TrainConfig, identity: RunIdentity, start: StartPoint) -> dict[str, Any]:
    """Entries of wrinklefree.json that every checkpoint of the run has.

    "source", the dense model at the beginning, goes from stage to stage: exports take name and
    licence from it.
    """
    origin = {} if start.origin is None else {"source": start.origin}
    return origin | {
        "stage": config.training.stage,
        "fingerprint": identity.fingerprint,
        "git": {"commit": identity.git.commit, "dirty": identity.git.dirty},
    }


def _summary(
    config: TrainConfig, run: RunFolder, status: str, figures: dict[str, Any], audit_head: str | None
) -> dict[str, Any]:
    own = {"run_folder": str(run.path), SUMMARY_KEY: audit_head}
    return {**_names(config), "status": status, **figures, **own}


def _is_first_process() -> bool:
    """Whether this is rank 0, before torch.distributed is up (Lightning or torchrun set these)."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _print_summary(summary: dict[str, Any]) -> None:
    """One machine-readable line."""
    sys.stdout.write(f"summary: {json.dumps(summary)}\n")
    sys.stdout.flush()
