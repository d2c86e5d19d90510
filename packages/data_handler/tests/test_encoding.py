from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from data_handler import DataError
from data_handler.encoding import Encoder
from wf_formats.diffusion import MASK_TOKEN


def test_eos_after_every_document_and_only_once(tokenizer: Any) -> None:
    one, two = Encoder(tokenizer).encode(["a river", "a river</s>"])
    assert one.tolist() == [*tokenizer.encode("a river"), tokenizer.eos_token_id]
    assert two.tolist() == one.tolist()


def test_settings_of_the_users_tokenizer_neither_matter_nor_change(tokenizer: Any) -> None:
    limited = copy.deepcopy(tokenizer)
    limited.backend_tokenizer.enable_truncation(2)
    limited.backend_tokenizer.enable_padding(length=64)
    (tokens,) = Encoder(limited).encode(["a river and a river"])
    assert tokens.tolist() == Encoder(tokenizer).encode(["a river and a river"])[0].tolist()
    assert limited.backend_tokenizer.truncation is not None


def test_a_begin_token_of_the_tokenizer_is_kept(tokenizer: Any) -> None:
    llama3_like = copy.deepcopy(tokenizer)
    llama3_like.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    (tokens,) = Encoder(llama3_like).encode(["river"])
    assert tokens[0] == 1
    assert tokens[-1] == 2


def test_an_autoregressive_tokenizer_may_have_a_mask_token_of_that_name(tokenizer: Any) -> None:
    """With another added behind it; a block-diffusion model's is the last, and no text becomes it."""
    masked = copy.deepcopy(tokenizer)
    masked.add_special_tokens({"mask_token": MASK_TOKEN})
    (tokens,) = Encoder(masked).encode([f"a {MASK_TOKEN} river"])
    assert masked.mask_token_id not in tokens
    masked.add_tokens(["<|more|>"])
    (tokens,) = Encoder(masked).encode([f"a {MASK_TOKEN} river"])
    assert masked.mask_token_id in tokens


def test_tokenizers_that_do_not_fit(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="SimpleNamespace is not a fast tokenizer"):
        Encoder(SimpleNamespace())
    without_eos = copy.deepcopy(tokenizer)
    without_eos.eos_token = None
    with pytest.raises(DataError, match="no eos_token"):
        Encoder(without_eos)
