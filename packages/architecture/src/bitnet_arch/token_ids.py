"""Token ids that a model is shown to be fitted or calibrated on."""

from __future__ import annotations

from torch import Tensor


def check_ids(input_ids: Tensor, vocab_size: int, min_tokens: int) -> None:
    """Raises ValueError for ids that are not [sequences, tokens], too few, or of another vocabulary."""
    if input_ids.dim() != 2 or input_ids.numel() < min_tokens:
        raise ValueError(
            f"ids of shape [sequences, tokens] with at least {min_tokens} tokens are wanted, "
            f"got {tuple(input_ids.shape)}"
        )
    if input_ids.min() < 0 or input_ids.max() >= vocab_size:
        raise ValueError(
            f"ids span {input_ids.min().item()}..{input_ids.max().item()}, the model's vocabulary has "
            f"{vocab_size}: they were made with another tokenizer; the checkpoint's tokenizer belongs to "
            "another model"
        )
