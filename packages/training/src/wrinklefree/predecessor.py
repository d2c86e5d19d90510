"""Where the checkpoint that a stage starts from lies, and what can be said of a start without PyTorch.

The previous stage is looked for in the same experiment, in the order of `training.accept_from`; what was
looked for is part of the error when nothing is there.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from wf_formats.file_names import CONFIG_FILE, META_FILE
from wf_formats.json_file import read_json
from wf_formats.packaged import ModelSource
from wf_formats.plugins import entries
from wf_formats.run_files import MANIFEST_FILE, RUN_FILE
from wf_formats.schemes import FULL_PRECISION, SCHEMES
from wrinklefree.checkpoints.manifest import DamagedCheckpointError
from wrinklefree.checkpoints.store import CheckpointStore
from wrinklefree.compose.recipes import is_recipe
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.root import TrainConfig, run_path
from wrinklefree.config.training import ContinuingConfig
from wrinklefree.errors import RunError
from wrinklefree.stages.registry import stage_by_name, stages
from wrinklefree.uploads.start import check_upload_is_there, fetched_folder, is_upload

_QUANTIZERS = "bitnet_arch.quantizers"


def check_start(config: TrainConfig) -> str | None:
    """What can be seen at once: the previous stage, else the weight scheme and the model's folder.

    Returns: the checkpoint's folder, or the URL of its upload; None for the dense model.

    Raises: RunError, ConfigError, PluginError.
    """
    if isinstance(config.training, ContinuingConfig):
        start_from = config.training.start_from
        if start_from is not None and is_upload(start_from):
            check_upload_is_there(start_from)
            return start_from
        return str(previous_folder(config, config.training))
    built_in = [*SCHEMES, FULL_PRECISION]
    known = [*built_in, *entries(_QUANTIZERS, built_in)]
    if config.model.scheme not in known:
        raise RunError(
            f"model.scheme, model.sub_norm: unknown weight scheme {config.model.scheme!r}; known: "
            f"{', '.join(known)}"
        )
    if config.model.source is not ModelSource.packaged and not config.model.name:
        raise RunError(f"model.source={config.model.source} needs a name: model.name=NAME")
    if config.model.source is ModelSource.path and not Path(config.model.name or "").is_dir():
        raise RunError(f"model.name={config.model.name}: there is no such folder (in {Path.cwd()})")
    return None


def previous_folder(config: TrainConfig, training: ContinuingConfig) -> Path:
    """The checkpoint's folder; of one that is uploaded, where `holding_start` has it.

    Raises: RunError when there is none, with what was looked for; ConfigError.
    """
    if training.start_from is not None and is_upload(training.start_from):
        return _named_folder(str(fetched_folder(config, training.start_from)))
    if training.start_from is not None:
        return _named_folder(training.start_from)
    for stage in training.accept_from:
        folder = run_path(config, stage) / "final"
        if folder.is_dir():
            return folder
    raise RunError(_nothing_found(config, training.accept_from))


def _named_folder(start_from: str) -> Path:
    """Raises: ConfigError for no name, RunError for what is no checkpoint and could be taken for one."""
    if not start_from:
        raise ConfigError(
            "training.start_from is empty: give a checkpoint folder, or null for the previous stage's result"
        )
    with suppress(RuntimeError):  # `~name` of nobody is a folder's name
        start_from = str(Path(start_from).expanduser())
    folder = Path(start_from).absolute()
    if folder.is_dir():
        if (other := _other_kind(folder)) is None:
            return folder
        raise RunError(f"training.start_from: {folder} is no checkpoint: {other}")
    if folder.exists():
        raise RunError(f"training.start_from: {folder} is a file: give a checkpoint folder")
    raise RunError(f"training.start_from: there is no folder {folder}")


def _other_kind(folder: Path) -> str | None:
    """What a folder is that never was a checkpoint of ours, and what to give instead; None for one."""
    if (folder / MANIFEST_FILE).is_file():
        return None
    if (folder / META_FILE).is_file():
        is_export = "export" in read_json(folder / META_FILE, DamagedCheckpointError)
        return "it is an export; give the checkpoint that it was made from" if is_export else None
    if (folder / RUN_FILE).is_file():
        given = [path for path in (folder / "final", *_newest(folder / "checkpoints")) if path.is_dir()]
        have = f"give its {' or '.join(str(path) for path in given)}" if given else "it holds none yet"
        return f"it is the folder of a run; {have}"
    if newest := _newest(folder):
        return f"it holds several; give one of them, such as {newest[0]}"
    if (folder / CONFIG_FILE).is_file():
        first = stages()[0].number
        return (
            "it is a model in Hugging Face's format; convert it with "
            f"wf train -s {first} model.source=path model.name={shlex.quote(str(folder))}"
        )
    return f"it has no {META_FILE}; give a run's `final`, or one of its checkpoints/step_*"


def _newest(checkpoints: Path) -> list[Path]:
    """The newest checkpoint, if there is one."""
    store = CheckpointStore(checkpoints)
    return [store.path(step) for step in store.steps()[-1:]]


def _nothing_found(config: TrainConfig, accepted: list[str]) -> str:
    looked = "\n".join(f"  {_state(config, stage)}" for stage in accepted)
    first = stage_by_name(accepted[0]).number
    give = "give a checkpoint folder with training.start_from=FOLDER."
    if is_recipe(config.experiment):
        fix = f"This name is a recipe of {config.training.stage} alone: {give}"
    else:
        fix = f"Run wf train -s {first} -e {shlex.quote(config.experiment)} first, or {give}"
    return (
        f"{config.training.stage} of experiment '{config.experiment}' starts from the result of "
        f"{' or '.join(accepted)}, and there is none. Looked for:\n"
        f"{looked}\n{fix}"
    )


def _state(config: TrainConfig, stage: str) -> str:
    from wrinklefree.checkpoints.part_store import PartStore

    run = run_path(config, stage)
    if not (run / RUN_FILE).is_file():
        return f"{run / 'final'} (no run of {stage} was started there)"
    steps = CheckpointStore(run / "checkpoints").steps()
    progress = f"its newest checkpoint is step {steps[-1]}" if steps else "without a checkpoint yet"
    if not PartStore(run / "parts").is_empty:
        progress = "some of its parts are done: the same command goes on from there"
    return f"{run / 'final'} (the run was started but is not finished, {progress})"
