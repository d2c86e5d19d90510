"""Stage 4: an autoregressive model, dense or ternary, becomes a block-diffusion model (docs/diffusion.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wrinklefree.config.errors import ConfigError
from wrinklefree.config.ranges import MAX_LENGTH_TOKENS, number
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import GradientConfig, ScheduleConfig, ScheduleKind
from wrinklefree.stages.gradient import GradientStage


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
        to_block_diffusion(model, tokenizer, block_size_of(config), _options(config).token_shift)
        return tokenizer


def block_size_of(config: TrainConfig) -> int:
    """Tokens."""
    options = _options(config)
    return options.sequence_length_tokens if options.block_size is None else options.block_size


def _options(config: TrainConfig) -> DiffusionConfig:
    assert isinstance(config.training, DiffusionConfig)
    return config.training
