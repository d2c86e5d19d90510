"""Where a stage starts: the dense model, or the finished checkpoint of a previous stage.

Where the previous stage's is: predecessor.py. A checkpoint is trained as it is, so
it has to be what `model` describes: made from that dense model, with that scheme and SubLN.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitnet_arch
from wf_formats.diffusion import BEFORE_DIFFUSION
from wf_formats.models.kind import check_is_autoregressive
from wf_formats.overrides import shown
from wf_formats.packaged import PACKAGED_MODEL, ModelSource
from wf_formats.run_files import is_complete
from wf_formats.schemes import FULL_PRECISION
from wrinklefree.checkpoints.manifest import manifest_digest, verify_manifest
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.root import TrainConfig, run_path
from wrinklefree.config.training import ContinuingConfig, Trained
from wrinklefree.errors import RunError
from wrinklefree.predecessor import previous_folder
from wrinklefree.stages.registry import stage_of, stages
from wrinklefree.uploads.start import is_upload, uploaded_digest

LOG = logging.getLogger("wrinklefree")
_DENSE = {"scheme": FULL_PRECISION, "sub_norm": False}
"""How `model` describes a checkpoint without a conversion."""


@dataclass(frozen=True)
class StartPoint:
    """folder: verified checkpoint to start from, None for the dense model; digest names its contents.

    A run that is complete needs the digest alone: of an upload, folder and origin are None then.

    origin: the dense model that the weights come from, {"source": ..., "name": ...} and of the hub its
    "revision", as every checkpoint records it under "source"; None where the checkpoint does not say.
    """

    folder: Path | None
    digest: str | None
    origin: dict[str, Any] | None


def find_start(config: TrainConfig) -> StartPoint:
    """Raises: RunError (nothing to start from, or another model), DamagedCheckpointError, ConfigError
    (low-rank corrections that the stage would lose, or lacks), ModelKindError (a block-diffusion model)."""
    training = config.training
    if not isinstance(training, ContinuingConfig):
        return StartPoint(None, None, {"source": config.model.source.value, "name": config.model.name})
    if training.start_from is not None and is_upload(training.start_from) and _is_done(config):
        return StartPoint(None, uploaded_digest(training.start_from), None)
    folder = previous_folder(config, training)
    verify_manifest(folder)
    meta = bitnet_arch.read_meta(folder)
    _refuse_another_model(config, folder, meta)
    _check_corrections(config, folder, meta)
    if not (stage := stage_of(config)).takes_diffusion:
        check_is_autoregressive(folder, f"wf train -s {stage.number}", BEFORE_DIFFUSION)
    return StartPoint(folder, manifest_digest(folder), meta.get("source"))


def _is_done(config: TrainConfig) -> bool:
    return is_complete(run_path(config, config.training.stage)) and not config.force


def _refuse_another_model(config: TrainConfig, folder: Path, meta: dict[str, Any]) -> None:
    """Raises: RunError naming the keys of `model` that differ from the checkpoint's record."""
    if not meta.get("conversion") and not config.model.is_dense:
        raise RunError(
            f"{folder} holds a dense model: start from a result of wf train -s {stages()[0].number}, or "
            f"train it as it is with model.scheme={FULL_PRECISION}"
        )
    there = _described_by(meta)
    here = {
        "model.scheme": config.model.scheme,
        "model.sub_norm": config.model.sub_norm,
        "model.source": config.model.source.value,
        "model.name": config.model.name,
    }
    if "model.source" not in there:
        LOG.warning("%s does not say which dense model it was made from", folder)
    elif _same_dense_model(there, here):
        there |= {key: here[key] for key in ("model.source", "model.name")}
    if config.model.sub_norm is None:  # the quantizer's to say, which then said what is there
        del there["model.sub_norm"]
    different = [key for key in there if there[key] != here[key]]
    if different:
        raise RunError(_another_model(folder, different, there, here))


def _check_corrections(config: TrainConfig, folder: Path, meta: dict[str, Any]) -> None:
    """Raises: ConfigError for low-rank corrections that the stage would lose, or that it is to train and that
    are not there."""
    rank, stage = (meta.get("conversion") or _DENSE).get("low_rank", 0), stage_of(config)
    if rank and not stage.keeps_corrections:
        raise ConfigError(
            f"{folder} has low-rank corrections (rank {rank}) of its ternary weights, and {stage.name} would "
            "change what they correct: start from the checkpoint that they were made from, with "
            "training.start_from=FOLDER"
        )
    trained = getattr(config.training, "trained", Trained.all)
    if trained is Trained.low_rank and not rank:
        raise ConfigError(
            f"training.trained=low_rank, but {folder} has no low-rank corrections: make some with "
            "wf train -s 2.5"
        )


def _described_by(meta: dict[str, Any]) -> dict[str, Any]:
    """The keys of `model` that wrinklefree.json gives a value."""
    conversion, origin = meta.get("conversion") or _DENSE, meta.get("source")
    found = {"model.scheme": conversion["scheme"], "model.sub_norm": conversion["sub_norm"]}
    if origin is not None:
        found |= {"model.source": origin["source"], "model.name": origin["name"]}
    return found


def _same_dense_model(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """The packaged model has one name, spelled or not; a folder may be written in several ways."""
    if there["model.source"] != here["model.source"]:
        return False
    names = [keys["model.name"] for keys in (there, here)]
    if here["model.source"] == ModelSource.packaged:
        names = [name or PACKAGED_MODEL for name in names]
    elif here["model.source"] == ModelSource.path and all(names):
        names = [Path(name).resolve() for name in names]
    return bool(names[0] == names[1])


def _another_model(folder: Path, keys: list[str], there: dict[str, Any], here: dict[str, Any]) -> str:
    differences = "\n".join(f"  {key}: {shown(there[key])} there, {shown(here[key])} now" for key in keys)
    fix = " ".join(f"{key}={_as_override(there[key])}" for key in keys)
    return (
        f"{folder} is not the model of this configuration:\n{differences}\n"
        f"Train what it holds with {fix}, or convert the other model under another experiment=NAME "
        f"with wf train -s {stages()[0].number}."
    )


def _as_override(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)
