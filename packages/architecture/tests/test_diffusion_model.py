"""An autoregressive model becomes a block-diffusion model in memory: the mask token and its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
import torch
import transformers

from bitnet_arch import (
    ConversionConfig,
    UnsupportedModelError,
    bit_linears,
    convert,
    install_low_rank,
    quantizer,
)
from bitnet_arch.diffusion_model import block_diffusion_of, to_block_diffusion
from wf_formats.diffusion import MASK_TOKEN, BlockDiffusion
from wf_formats.errors import RequestError

NUM_TOKENS = 259
IDS = torch.randint(3, NUM_TOKENS, (8, 96), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS[:, :16]).logits
    return found


def rows(model: Any) -> list[torch.Tensor]:
    return [model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()]


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("num_rows", [NUM_TOKENS, 320], ids=["full", "padded"])
def test_the_mask_token_gets_the_mean_of_the_vocabulary(
    tiny_llama: Any, byte_tokenizer: Any, is_tied: bool, num_rows: int
) -> None:
    model, tokenizer = tiny_llama(vocab_size=num_rows, tie_word_embeddings=is_tied), byte_tokenizer()
    for matrix in rows(model):
        matrix[NUM_TOKENS:] = 9.0  # rows without a token are no part of the mean
    before, matrices = logits(model), [matrix.clone() for matrix in rows(model)]
    diffusion = to_block_diffusion(model, tokenizer, block_size=8, token_shift=False)
    assert diffusion == BlockDiffusion(8, NUM_TOKENS, False) == block_diffusion_of(model)
    assert model.config.block_diffusion == diffusion.to_settings()
    assert tokenizer.mask_token == MASK_TOKEN
    assert tokenizer.mask_token_id == NUM_TOKENS
    expected = max(num_rows, NUM_TOKENS + 1)
    assert model.config.vocab_size == model.vocab_size == model.lm_head.out_features == expected
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == is_tied
    for matrix, earlier in zip(rows(model), matrices, strict=True):
        assert matrix.shape == (expected, 256)
        torch.testing.assert_close(matrix[NUM_TOKENS], earlier[:NUM_TOKENS].double().mean(0).float())
        others = torch.arange(num_rows) != NUM_TOKENS
        assert torch.equal(matrix[:num_rows][others], earlier[others])
    assert torch.equal(logits(model)[..., :NUM_TOKENS], before[..., :NUM_TOKENS])


def test_a_converted_model_keeps_layers_norms_and_corrections(tiny_llama: Any, byte_tokenizer: Any) -> None:
    model = tiny_llama(vocab_size=NUM_TOKENS)
    convert(model, ConversionConfig(quantizer("tensor")), IDS)
    install_low_rank(model, 3)
    conversion, before = model.config.quantization_config.to_dict(), logits(model)
    layers = dict(bit_linears(model))
    to_block_diffusion(model, byte_tokenizer())
    assert dict(bit_linears(model)) == layers
    assert len(layers) == 14
    assert model.config.quantization_config.to_dict() == conversion
    assert torch.equal(logits(model)[..., :NUM_TOKENS], before)


def test_a_model_that_is_one_already_is_of_that_kind_or_refused(tiny_llama: Any, byte_tokenizer: Any) -> None:
    model, tokenizer = tiny_llama(vocab_size=NUM_TOKENS), byte_tokenizer()
    diffusion = to_block_diffusion(model, tokenizer, 8)
    assert to_block_diffusion(model, tokenizer, 8) == diffusion
    assert model.config.vocab_size == NUM_TOKENS + 1
    for asked in ((16, True), (8, False)):
        with pytest.raises(
            RequestError, match="is a block-diffusion model of block_size 8 and token_shift True"
        ):
            to_block_diffusion(model, tokenizer, *asked)


def with_gap(tokenizer: Any) -> Any:
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec["model"]["vocab"] = {t: i + (i > 200) for t, i in spec["model"]["vocab"].items()}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(spec)), eos_token="</s>"
    )


def with_tokens(*added: str) -> Callable[[Any], Any]:
    def make(tokenizer: Any) -> Any:
        tokenizer.add_tokens(list(added))
        return tokenizer

    return make


@pytest.mark.parametrize(
    ("change", "asked", "error"),
    [
        (with_tokens(), {"block_size": 0}, "block_size is 0, not a whole number"),
        (with_tokens(), {"block_size": 4.0}, "block_size is 4.0, not a whole number"),
        (with_tokens(), {"block_size": 513}, "block_size is 513, the model's context 512 tokens"),
        (with_tokens(MASK_TOKEN), {}, r"has a token <\|mask\|> of its own \(id 259\)"),
        (
            with_tokens(*(f"<{i}>" for i in range(99))),
            {},
            "'<61>' with id 320, and the model's",
        ),
        (with_gap, {}, "no room for .*gaps.* the id 259 of "),
        (lambda tokenizer: object(), {}, r"the tokenizer \(object\) has no tokenizer.json"),
        (lambda tokenizer: None, {}, r"the tokenizer \(NoneType\) has no tokenizer.json"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    tiny_llama: Any, byte_tokenizer: Any, change: Any, asked: dict[str, Any], error: str
) -> None:
    model, tokenizer = tiny_llama(vocab_size=320), change(byte_tokenizer())
    matrix, num_tokens = rows(model)[0].clone(), len(tokenizer) if hasattr(tokenizer, "__len__") else 0
    with pytest.raises(RequestError, match=error):
        to_block_diffusion(model, tokenizer, **asked)
    assert torch.equal(rows(model)[0], matrix)
    assert block_diffusion_of(model) is None
    assert not num_tokens or len(tokenizer) == num_tokens


def test_windows_of_attention_are_refused(tiny_mistral: Any, byte_tokenizer: Any) -> None:
    to_block_diffusion(tiny_mistral(), byte_tokenizer())  # as wide as the context: none
    with pytest.raises(UnsupportedModelError, match="layer 0 sees 64 tokens of a context of 512"):
        to_block_diffusion(tiny_mistral(sliding_window=64), byte_tokenizer())
