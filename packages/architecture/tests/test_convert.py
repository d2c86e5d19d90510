"""Conversion and the fit of SubLN on tiny models; the packaged model's figures are marked slow."""

import copy

import pytest
import torch
import transformers

from bitnet_arch import (
    BitLinear,
    ConversionConfig,
    SubLN,
    UnsupportedModelError,
    bit_linears,
    convert,
    load_dense,
    quantizer,
    set_lambda,
)
from bitnet_arch.sub_norm_fit import _choose_floor, _least_squares_gain, fit_sub_norms

FAMILIES = ["tiny_llama", "tiny_mistral", "tiny_qwen2", "tiny_qwen3"]


def fit_ids(num_sequences: int = 8, num_tokens: int = 128) -> torch.Tensor:
    return torch.randint(0, 512, (num_sequences, num_tokens), generator=torch.Generator().manual_seed(5))


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scheme", ["group64", "group128"])
def test_group_conversion_keeps_the_function_at_lambda_0(family, scheme, request) -> None:
    model = request.getfixturevalue(family)()
    before = logits(model, fit_ids(2, 16))
    convert(model, ConversionConfig(quantizer(scheme)))
    assert len(list(bit_linears(model))) == 2 * 7
    assert not isinstance(model.lm_head, BitLinear)
    set_lambda(model, 0.0)
    torch.testing.assert_close(logits(model, fit_ids(2, 16)), before, rtol=0, atol=0)
    set_lambda(model, 1.0)
    assert not torch.allclose(logits(model, fit_ids(2, 16)), before, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_calibrated_sub_norm_keeps_the_function_better_than_naive(family, request) -> None:
    dense = request.getfixturevalue(family)()
    text = torch.randint(0, 512, (2, 64), generator=torch.Generator().manual_seed(6))
    reference = logits(dense, text)
    errors = {}
    for naive in (False, True):
        model = convert(copy.deepcopy(dense), ConversionConfig(), fit_ids(), naive=naive)
        set_lambda(model, 0.0)
        errors[naive] = (logits(model, text) - reference).norm() / reference.norm()
    assert errors[False] < 0.1
    assert errors[False] < errors[True] / 5


def test_sub_norms_stand_before_output_and_down_projection(tiny_llama) -> None:
    model = convert(tiny_llama(), ConversionConfig(), fit_ids())
    with_norm = {name.split(".", 3)[3] for name, layer in bit_linears(model) if layer.sub_norm is not None}
    assert with_norm == {"self_attn.o_proj", "mlp.down_proj"}
    num_ternary = sum(layer.weight.numel() for _, layer in bit_linears(model))
    assert num_ternary == 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512)


def test_gains_solve_the_least_squares_problem(tiny_llama) -> None:
    """Independent solution: the stacked linear system min_g |A g - y| by lstsq in float64."""
    model = tiny_llama()
    seen = {}
    down = model.model.layers[0].mlp.down_proj
    hook = down.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    ids = fit_ids(4, 128)
    solved = fit_sub_norms(model, ids, eps=1e-5)["model.layers.0.mlp.down_proj"]
    hook.remove()
    x = seen["x"].reshape(-1, 512).double()
    normalized = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5 * 4.0**solved.log2_floor).sqrt()
    weight = down.weight.detach().double()
    rows = torch.randperm(x.shape[0], generator=torch.Generator().manual_seed(0))[:64]
    design = torch.einsum("oi,ti->toi", weight, normalized[rows]).reshape(-1, 512)
    target = (x[rows] @ weight.t()).reshape(-1)
    best = torch.linalg.lstsq(design, target).solution
    all_rows = normalized @ weight.t().mul(best[:, None])
    residual = (all_rows - x @ weight.t()).norm() / (x @ weight.t()).norm()
    assert solved.relative_error**0.5 <= residual * 1.05


def test_gains_that_cannot_be_are_refused() -> None:
    x, weight = torch.randn(600, 8), torch.randn(4, 8)
    for extreme in (weight * 1e30, weight * 0):
        with pytest.raises(ValueError, match="cannot be fitted"):
            _least_squares_gain(x, x, extreme)


def test_floor_grows_with_demand_and_stays_in_bounds() -> None:
    energy = torch.ones(100)
    mean_square = torch.logspace(-4, 0, 100)
    floors = [_choose_floor(energy, mean_square, 1e-5, tolerance, 20) for tolerance in (1.0, 0.1, 0.01)]
    assert floors == sorted(floors)
    assert floors[0] == 0
    assert floors[-1] > 4
    assert _choose_floor(energy, mean_square, 1e-5, 1e-9, 3) == 3


def test_equally_loud_tokens_need_no_floor() -> None:
    assert _choose_floor(torch.ones(10), torch.full((10,), 0.3), 1e-5, 0.01, 20) == 0


def test_sub_norm_floor_equals_a_scaled_input_to_the_bit() -> None:
    norm = SubLN(64, 1e-5, log2_floor=7)
    plain = SubLN(64, 1e-5)
    x = torch.randn(5, 64)
    torch.testing.assert_close(norm(x), plain(x * 2.0**-7), rtol=0, atol=0)


def test_unknown_architectures_are_refused_with_the_known_ones(tiny_llama) -> None:
    config = transformers.GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=64)
    with pytest.raises(UnsupportedModelError, match=r"'gpt2' cannot be converted; known: llama .*qwen3"):
        convert(transformers.GPT2LMHeadModel(config), ConversionConfig())
    with pytest.raises(UnsupportedModelError, match="'relu'"):
        convert(tiny_llama(hidden_act="relu"), ConversionConfig())


def test_bad_input_is_refused(tiny_llama) -> None:
    with pytest.raises(ValueError, match="fit_ids"):
        convert(tiny_llama(), ConversionConfig())
    with pytest.raises(ValueError, match="at least 512"):
        convert(tiny_llama(), ConversionConfig(), fit_ids(1, 16))
    with pytest.raises(ValueError, match="another tokenizer"):
        convert(tiny_llama(), ConversionConfig(), fit_ids() + 400)
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn\.q_proj: rows of 192"):
        convert(tiny_llama(hidden_size=192), ConversionConfig(quantizer("group128")))
    converted = convert(tiny_llama(), ConversionConfig(quantizer("group64")))
    with pytest.raises(ValueError, match="already"):
        convert(converted, ConversionConfig(quantizer("group64")))


@pytest.mark.slow
def test_packaged_model_keeps_its_answers(shared_data) -> None:
    """Top-1 agreement of at least 0.8 on text that the fit did not see (naive: 0.02)."""
    import gzip
    import json

    model, tokenizer = load_dense("packaged")

    def tokens(file: str, num_tokens: int) -> torch.Tensor:
        with gzip.open(shared_data / file, "rt") as lines:
            text = "\n\n".join(json.loads(line)["text"] for _, line in zip(range(40), lines, strict=False))
        return torch.tensor(tokenizer(text)["input_ids"][:num_tokens]).view(-1, 512)

    held_out = tokens("pretrain/wikitext2_raw/test.jsonl.gz", 4096)
    reference = logits(model, held_out).argmax(-1)
    convert(model, ConversionConfig(), tokens("pretrain/fineweb_edu/train.jsonl.gz", 4096))
    set_lambda(model, 0.0)
    agreement = (logits(model, held_out).argmax(-1) == reference).float().mean().item()
    assert agreement >= 0.8
