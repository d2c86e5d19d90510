"""What the stages with gradients share: the checks of their configuration, and the way to the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wf_formats.errors import RequestError
from wf_formats.schemes import FULL_PRECISION, GROUP_SIZES
from wf_stores import parse_location
from wrinklefree.config.distributed import DistributedKind
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.lengths import check_lengths, gradient_options, run_lengths
from wrinklefree.config.mixture import Policy
from wrinklefree.config.optimizer import AdamW8bitConfig, AdamWConfig, MomentKind, MuonConfig
from wrinklefree.config.root import TrainConfig, run_path
from wrinklefree.config.training import GradientConfig, Precision, Trained
from wrinklefree.mixture.checks import check_mixture
from wrinklefree.objectives.base import ObjectiveConfig
from wrinklefree.stages.base import Outcome, Stage, StageContext
from wrinklefree.stages.tensor_parallel import check_tensor_parallel


class GradientStage(Stage):
    """Base of a stage whose schema is a GradientConfig: it differs in defaults and objectives only."""

    unused_keys = ()
    keeps_corrections = True
    infrastructure_keys = ("training.checkpoint", "training.gradient_checkpointing")

    def check(self, config: TrainConfig) -> None:
        training, where = gradient_options(config), config.distributed
        if where.kind is DistributedKind.single and where.devices * where.num_nodes != 1:
            raise ConfigError("several devices with distributed=single: choose distributed=ddp or fsdp")
        num_ranks, num_shares = where.num_readers, config.data.num_shares
        if num_shares is not None and num_shares % num_ranks:
            raise ConfigError(
                f"data.num_shares={num_shares} cannot be divided between {num_ranks} processes "
                "(distributed.devices x distributed.num_nodes): give a multiple"
            )
        if training.checkpoint.in_background and where.kind is not DistributedKind.fsdp:
            raise ConfigError(
                f"training.checkpoint.in_background=true with distributed={where.kind}: the shards of "
                "distributed=fsdp alone are written so; choose that, or leave it out"
            )
        if training.ema_decay is not None and where.kind is DistributedKind.fsdp:
            raise ConfigError(
                f"training.ema_decay={training.ema_decay} averages whole weights, and distributed=fsdp "
                "shards them: choose distributed=ddp, or training.ema_decay=null"
            )
        if where.kind is DistributedKind.tensor_parallel_experimental:
            check_tensor_parallel(config)
        _check_optimizer(config)
        _check_qk_clip(config)
        _check_upload(config)
        _check_length(training)
        if training.trained is Trained.low_rank and isinstance(config.optimizer, MuonConfig):
            raise ConfigError(
                "training.trained=low_rank with optimizer=muon, which is for whole matrices: choose "
                "optimizer=adamw"
            )
        if not any(options.weight > 0 for options in training.objectives.values()):
            raise ConfigError("no objective in training.objectives has a weight above 0")
        _check_curriculum(config)
        if config.model.is_dense:
            _check_dense(config)
        if not config.data.sources:
            raise ConfigError("data.sources is empty: choose data=..., or list sources")
        check_mixture(config)

    def open(self, config: TrainConfig) -> Any:
        if gradient_options(config).mixture.policy is not Policy.influence:
            return None
        from wrinklefree.stages.mixture import open_probes

        return open_probes(config)

    def prepare(self, config: TrainConfig, model: Any, tokenizer: Any) -> Any:
        """What is trained, made in place of the model that the stage starts from; as a rule it is that.

        Called at each start of the run, before its newest checkpoint is read.

        Returns: the tokenizer of the result. The text is read with the given one, which stays as it is.
        Raises: UserError (a model that the stage cannot train).
        """
        return tokenizer

    def run(self, context: StageContext) -> Outcome:
        from wrinklefree.stages.fit import run_training

        return run_training(context, self.prepare)


def _check_qk_clip(config: TrainConfig) -> None:
    """Raises: ConfigError for weights whose rows cannot be scaled one by one, or are not to change."""
    training, scheme = gradient_options(config), config.model.scheme
    if training.qk_clip.threshold is None:
        return
    by_row = [name for name, size in GROUP_SIZES.items() if size is not None]
    if not config.model.is_dense and scheme not in by_row:
        raise ConfigError(
            f"training.qk_clip.threshold={training.qk_clip.threshold:g} scales rows of single heads, which "
            f"model.scheme={scheme} may not be able to hold (one scale of a whole matrix is not): choose "
            f"{', '.join(by_row)} or {FULL_PRECISION}, or set training.qk_clip.threshold=null"
        )
    if training.trained is Trained.low_rank:
        raise ConfigError(
            f"training.qk_clip.threshold={training.qk_clip.threshold:g} scales weights, and training.trained="
            "low_rank leaves all but the corrections as they are: set training.qk_clip.threshold=null"
        )


def _check_upload(config: TrainConfig) -> None:
    """Raises: ConfigError for what is no URL of a store, or a path that leads into the run's own folder."""
    options = gradient_options(config).checkpoint
    if not options.upload and options.upload_keep_last is not None:
        raise ConfigError(
            f"training.checkpoint.upload_keep_last={options.upload_keep_last} without training.checkpoint."
            "upload: give that too, or leave it out"
        )
    try:
        location = parse_location(options.upload) if options.upload else None
    except RequestError as error:
        raise ConfigError(f"training.checkpoint.upload: {error}") from error
    if location is not None and not location.scheme:
        place = Path(location.prefix, config.experiment, config.training.stage).resolve()
        if place.is_relative_to(run_path(config, config.training.stage).resolve()):
            raise ConfigError(
                f"training.checkpoint.upload={options.upload} is in the folder of the run itself ({place}): "
                "choose a folder apart from output_dir"
            )


def _check_length(training: GradientConfig) -> None:
    """Raises: ConfigError where the run has no length, or several."""
    lengths = {f"training.{key}": getattr(training, key) for key in ("max_steps", "max_tokens", "minutes")}
    given = {key: value for key, value in lengths.items() if value is not None}
    if len(given) == 1:
        return
    shown = " and ".join(f"{key}={value:g}" for key, value in given.items()) or "none"
    fix = f"; {' or '.join(f'{key}=null' for key in given)} leaves one out" if given else ""
    raise ConfigError(
        "set exactly one of training.max_steps, training.max_tokens and training.minutes: here are "
        f"{shown}{fix}"
    )


def _check_dense(config: TrainConfig) -> None:
    """Raises: ConfigError for keys of quantized layers, of which a dense model has none."""
    training, scheme = gradient_options(config), config.model.scheme
    if training.precision in (Precision.int8, Precision.fp8_experimental):
        raise ConfigError(
            f"training.precision={training.precision} with model.scheme={scheme}: its products are those of "
            "quantized layers, and the model has none; choose float32 or bf16"
        )
    if training.lambda_warmup_steps:
        raise ConfigError(
            f"training.lambda_warmup_steps={training.lambda_warmup_steps} with model.scheme={scheme}: there "
            "is no quantization to fade in; leave it out"
        )


def _check_optimizer(config: TrainConfig) -> None:
    """Raises: ConfigError for a decay of whole weights, or moments in fewer bits where they cannot be."""
    options, rate = config.optimizer, gradient_options(config).learning_rate
    if rate * options.weight_decay >= 1 and options.weight_decay_share > 0:
        raise ConfigError(
            f"training.learning_rate={rate:g} times optimizer.weight_decay={options.weight_decay:g} is the "
            "share of a weight that a step takes away, and has to be below 1: lower optimizer.weight_decay"
        )
    is_sharded = config.distributed.kind is DistributedKind.fsdp
    if is_sharded and isinstance(options, AdamW8bitConfig):
        raise ConfigError(
            "optimizer=adamw_8bit has blocks of whole weights, and distributed=fsdp shards them: choose "
            "distributed=ddp, or optimizer=adamw"
        )
    if not isinstance(options, AdamWConfig) or options.state is MomentKind.float32:
        return
    if options.fused:
        raise ConfigError(
            "optimizer.fused=true is PyTorch's kernel for float32 moments, and optimizer.state="
            f"{options.state} has one of its own: leave optimizer.fused out, or set optimizer.state=float32"
        )
    if is_sharded:
        raise ConfigError(
            f"optimizer.state={options.state} has blocks of whole weights, and distributed=fsdp shards them: "
            "choose distributed=ddp, or optimizer.state=float32"
        )


def _check_curriculum(config: TrainConfig) -> None:
    """Raises: ConfigError for phases or lengths that cannot be, or weights in two places."""
    training = gradient_options(config)
    try:
        check_lengths(training, run_lengths(config))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for name, options in training.objectives.items():
        if training.curriculum and options.weight != ObjectiveConfig.weight:
            raise ConfigError(
                f"training.objectives.{name}.weight={options.weight:g} and training.curriculum both weigh "
                f"'{name}': leave the weight out, and name it in the phases"
            )
