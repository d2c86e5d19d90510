"""What a configuration asks of its model that not every model can give. The trainer asks before the first
step, of the model that it has loaded, `wf plan` of a config.json. Imports no PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

from wf_formats.errors import RequestError
from wf_formats.families import family_of
from wrinklefree.config.lengths import gradient_options
from wrinklefree.config.root import TrainConfig

QUERY_NORM = "q_norm"


@dataclass(frozen=True)
class ModelFacts:
    """context_tokens: positions that it was made for; None: it does not say."""

    model_type: str
    context_tokens: int | None


def check_model(config: TrainConfig, facts: ModelFacts) -> None:
    """Raises: RequestError naming the key and what the model has."""
    training = gradient_options(config)
    check_context("training.sequence_length_tokens", training.sequence_length_tokens, facts)
    if training.qk_clip.threshold is not None:
        check_norms(facts.model_type)


def check_context(key: str, length_tokens: int, facts: ModelFacts) -> None:
    """Raises: RequestError for sequences, as `key` asks for, that are longer than the model's context."""
    context = facts.context_tokens
    if context is not None and length_tokens > context:
        raise RequestError(
            f"{key}={length_tokens}, but the model's context is {context} tokens (max_position_embeddings); "
            f"ask for {context} at most"
        )


def check_norms(model_type: str) -> None:
    """Raises: RequestError for a model whose norms undo what QK-clip scales (qk_clip.py)."""
    if QUERY_NORM in family_of(model_type).extras:
        raise RequestError(
            f"training.qk_clip.threshold: queries and keys of this model ({model_type}) are normed "
            f"({QUERY_NORM}), which undoes a scaling of their weights and bounds the logits by itself: set "
            "training.qk_clip.threshold=null"
        )
