"""Stage 4: an autoregressive model, dense or ternary, becomes a block-diffusion model (docs/diffusion.md)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from wf_formats.diffusion import BlockDiffusion
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.ranges import MAX_LENGTH_TOKENS, number
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import GradientConfig, ScheduleConfig, ScheduleKind
from wrinklefree.stages.gradient import GradientStage

LOG = logging.getLogger("wrinklefree")


@dataclass
class DiffusionConfig(GradientConfig):
    stage: str = "stage4"
    accept_from: list[str] = field(
        default_factory=lambda: ["stage3", "stage2_5", "stage2", "stage1_9", "stage1_5", "stage1"]
    )
    max_steps: int | None = 2000
    learning_rate: float = 1e-4
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(kind=ScheduleKind.wsd, warmup=0.02, decay=0.4)
    )
    objectives: dict[str, Any] = field(default_factory=lambda: {"dlm": {}})
    block_size: int | None = number(32, least=1, most=MAX_LENGTH_TOKENS)
    """Tokens that are denoised together; null: a whole sequence (masked diffusion)."""
    token_shift: bool = True
    """Logits at a token predict the next, as the model has learned; false: those at a masked token predict
    it."""


class Diffusion(GradientStage):
    number = "4"
    title = "makes a block-diffusion model, which fills in several tokens at each pass"
    option = "stage4_diffusion"
    config = DiffusionConfig
    takes_diffusion = True

    def check(self, config: TrainConfig) -> None:
        super().check(config)
        size, length = block_size_of(config), _options(config).sequence_length_tokens
        if size > length:
            raise ConfigError(
                f"training.block_size={size} and training.sequence_length_tokens={length}: a sequence holds "
                f"at least one block; give training.sequence_length_tokens={size} or more, or smaller blocks"
            )

    def prepare(self, config: TrainConfig, model: Any, tokenizer: Any) -> Any:
        """A model that is a diffusion model already has to be of these blocks. Raises: RequestError."""
        import copy

        from bitnet_arch.diffusion_model import to_block_diffusion

        tokenizer = copy.deepcopy(tokenizer)
        options = _options(config)
        made = to_block_diffusion(model, tokenizer, block_size_of(config), options.token_shift)
        _tell_limits(made, options.sequence_length_tokens)
        return tokenizer


def _tell_limits(diffusion: BlockDiffusion, num_tokens: int) -> None:
    """What nobody should find out after the training."""
    if (reason := diffusion.why_not_served()) is not None:
        LOG.warning("%s, unless `wf eval`, in PyTorch, is all that it is for", reason)
    if diffusion.block_size == num_tokens > 1:
        LOG.warning(
            "a sequence of %d tokens is one block: what stands behind a first block is not learned, and each "
            "text in a sequence is filled up to a block of its own; give a smaller training.block_size, or "
            "texts of that length",
            num_tokens,
        )


def block_size_of(config: TrainConfig) -> int:
    """Tokens."""
    options = _options(config)
    return options.sequence_length_tokens if options.block_size is None else options.block_size


def _options(config: TrainConfig) -> DiffusionConfig:
    assert isinstance(config.training, DiffusionConfig)
    return config.training
