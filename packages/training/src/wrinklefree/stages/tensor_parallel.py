"""What `distributed=tensor_parallel_experimental` does not do, told when the configuration is composed."""

from __future__ import annotations

from wrinklefree.config.errors import ConfigError
from wrinklefree.config.lengths import gradient_options
from wrinklefree.config.optimizer import AdamWConfig, MomentKind
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import Precision, Trained
from wrinklefree.objectives.registry import build_objective

_KIND = "distributed=tensor_parallel_experimental"


def check_tensor_parallel(config: TrainConfig) -> None:
    """Raises: ConfigError for what needs whole matrices, rows or models."""
    training, optimizer = gradient_options(config), config.optimizer
    if config.distributed.devices * config.distributed.num_nodes < 2:
        raise ConfigError(f"{_KIND} with one process: set distributed.devices=2 or more")
    if training.precision not in (Precision.float32, Precision.bf16):
        raise ConfigError(
            f"{_KIND} with training.precision={training.precision}, whose gradients are rounded by rows of "
            "all processes: choose float32 or bf16"
        )
    if type(optimizer) is not AdamWConfig or optimizer.state is not MomentKind.float32:
        raise ConfigError(
            f"{_KIND} with moments or updates of whole matrices: choose optimizer=adamw with "
            "optimizer.state=float32"
        )
    if training.qk_clip.threshold is not None:
        raise ConfigError(
            f"{_KIND} with training.qk_clip.threshold={training.qk_clip.threshold:g}, which looks at all "
            "heads: set training.qk_clip.threshold=null"
        )
    if training.ema_decay is not None:
        raise ConfigError(f"{_KIND} with training.ema_decay={training.ema_decay}: set it to null")
    if training.trained is Trained.low_rank:
        raise ConfigError(f"{_KIND} with training.trained=low_rank: corrections are not cut; choose ddp")
    for name, options in training.objectives.items():
        if any(wish.student.qkv for wish in build_objective(name, options).wishes.values()):
            raise ConfigError(
                f"{_KIND} with training.objectives.{name}, which compares queries, keys and values of "
                "all heads: leave it out, or choose distributed=ddp"
            )
