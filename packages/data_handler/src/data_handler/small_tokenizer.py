"""A byte-level BPE of few tokens, trained on given texts: for models that are small or made from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def small_tokenizer(
    texts: Iterable[str], num_tokens: int, *, bos: str | None = None, eos: str = "</s>"
) -> Any:
    """A transformers tokenizer, the same for the same texts.

    Args:
        num_tokens: most that it has, those of the 256 bytes and `bos` and `eos` among them.
        bos: before each text of a model that wants it; may be `eos`.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        special_tokens=list(dict.fromkeys(token for token in (bos, eos) if token is not None)),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
