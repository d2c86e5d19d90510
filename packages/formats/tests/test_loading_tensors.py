"""Recognition of ternary matrices, groups of embeddings, rotary frequencies: without any file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wf_formats.decoder_config import DecoderConfig, LayerAttention
from wf_formats.errors import LoadError
from wf_formats.matrix import QuantizedMatrix
from wf_formats.models.groups import quantize_rows
from wf_formats.models.recognition import are_ternary, from_blocks, from_values, if_ternary
from wf_formats.rope import Rope, rope_of, scaled_frequencies


def random_codes(rng: np.random.Generator, rows: int = 6, columns: int = 512) -> np.ndarray:
    return rng.integers(-1, 2, (rows, columns)).astype(np.int8)


def random_scales(rng: np.random.Generator, kind: str, rows: int, columns: int) -> np.ndarray:
    shape = {"tensor": (), "row": (rows,)}.get(kind) if not kind.startswith("group") else None
    if shape is None:
        shape = (rows, columns // int(kind.removeprefix("group")))
    return rng.uniform(0.01, 2, shape).astype(np.float32)


KINDS = ["tensor", "row", "group128", "group64", "group32"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multiple", [1, 5])
def test_blocks_become_the_coarsest_grouping(kind, multiple):
    rng = np.random.default_rng(0)
    expected = QuantizedMatrix(codes := random_codes(rng), random_scales(rng, kind, *codes.shape))
    values = expected.values().reshape(6, 16, 32)
    scales = np.abs(values).max(axis=-1) / np.float32(multiple)
    blocks = (codes.reshape(6, 16, 32) * np.int8(multiple)).reshape(6, 512)
    found = from_blocks("w", blocks, scales)
    assert found.granularity == kind
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(found.values(), expected.values(), rtol=3e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_values_become_the_coarsest_grouping(kind):
    rng = np.random.default_rng(1)
    expected = QuantizedMatrix(codes := random_codes(rng), random_scales(rng, kind, *codes.shape))
    values = expected.values()
    found = from_values("w", lambda part: values[part], values.shape)
    assert found.granularity == kind
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_array_equal(found.values(), values)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_zero_groups_fit_any_scale_and_nothing_is_rounded(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    kind = data.draw(st.sampled_from(KINDS))
    codes = random_codes(rng, 4, 256)
    codes.reshape(4, 8, 32)[rng.random((4, 8)) < 0.5] = 0
    expected = QuantizedMatrix(codes.copy(), random_scales(rng, kind, 4, 256)).values()
    found = from_values("w", lambda part: expected[part], expected.shape)
    np.testing.assert_array_equal(found.values(), expected)
    assert KINDS.index(found.granularity) <= KINDS.index(kind)
    scales = rng.uniform(0.1, 1, (4, 8)).astype(np.float32)  # of zero blocks: whatever the file has
    used = codes.reshape(4, 8, 32).any(axis=-1)
    scales[used] = np.abs(expected.reshape(4, 8, 32)).max(axis=-1)[used]
    np.testing.assert_array_equal(from_blocks("w", codes.copy(), scales).values(), expected)


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("case", ["ternary", "one other code", "scales that differ", "zeros between", "nan"])
def test_codes_are_ternary_where_their_values_are(block, case):
    rng = np.random.default_rng(6)
    codes = random_codes(rng, 4, 128) * np.int8(7)
    scales = np.repeat(random_scales(rng, "group32", 4, 128), 32 // block, axis=1)
    if case == "one other code":
        codes[3, 70] = 5
    elif case == "scales that differ":
        scales[2, -1] *= 2
    elif case == "zeros between":
        codes[1, :block], scales[1, 0] = 0, 7
    elif case == "nan":
        scales[3, 0] = np.nan
    values = codes * np.repeat(scales, block, axis=1)
    expected = case in ("ternary", "zeros between") or (case == "scales that differ" and block == 32)
    assert (if_ternary(lambda part: values[part], values.shape) is not None) == expected
    assert are_ternary(codes, scales, 32) == expected


def test_wide_blocks_are_cut_to_groups_of_128():
    codes = random_codes(np.random.default_rng(2))
    scales = np.linspace(0.5, 1, 12, dtype=np.float32).reshape(6, 2)
    found = from_blocks("w", codes.copy(), scales)
    assert found.granularity == "group128"
    np.testing.assert_array_equal(found.values(), codes * np.repeat(scales, 256, axis=1))


def test_odd_rows_have_one_scale_each():
    codes = random_codes(np.random.default_rng(3), 5, 75)
    values = codes * np.arange(1, 6, dtype=np.float32)[:, None]
    assert from_values("w", lambda part: values[part], values.shape).granularity == "row"
    values = codes * np.float32(0.5)
    assert from_values("w", lambda part: values[part], values.shape).scales == np.float32(0.5)


def test_signs_of_scales_and_of_the_factor_go_into_the_codes():
    codes = random_codes(np.random.default_rng(4), 3, 64)
    scales = np.array([[1, -2], [-1, 2], [1, 2]], np.float32)
    expected = codes * np.repeat(scales, 32, axis=1) * np.float32(-0.1)
    found = from_blocks("w", codes.copy(), scales, -0.1)
    assert (found.scales > 0).all()
    np.testing.assert_allclose(found.values(), expected, rtol=2e-7)


def test_a_matrix_of_zeros():
    found = from_blocks("w", np.zeros((2, 64), np.int8), np.ones((2, 2), np.float32))
    assert found.granularity == "tensor"
    assert found.scales == 0
    found = from_blocks("w", np.ones((2, 64), np.int8), np.zeros((2, 2), np.float32))
    assert not found.values().any()


def test_other_values_are_refused_with_a_remedy():
    codes = random_codes(np.random.default_rng(5), 2, 64)
    codes[1, 40:42] = 1, 3
    with pytest.raises(LoadError, match=r"w is not ternary.*\[1, 3\].*convert and train"):
        from_blocks("w", codes, np.ones((2, 2), np.float32))
    values = np.full((2, 64), 0.5, np.float32)
    values[0, 3] = 0.50001
    with pytest.raises(LoadError, match="not ternary"):
        from_values("w", lambda part: values[part], values.shape)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scales_must_be_finite(wrong):
    codes, scales = np.ones((1, 64), np.int8), np.array([[1, wrong]], np.float32)
    with pytest.raises(LoadError, match="w: a scale is"):
        from_blocks("w", codes, scales)
    with pytest.raises(LoadError, match="w: scale of the matrix"):
        from_blocks("w", codes, np.ones((1, 2), np.float32), wrong)
    values = np.full((1, 64), wrong, np.float32)
    with pytest.raises(LoadError, match="w: values"):
        from_values("w", lambda part: values[part], values.shape)
    with pytest.raises(LoadError, match="w: values"):
        quantize_rows("w", lambda part: values[part], values.shape)


@pytest.mark.parametrize(("columns", "group"), [(96, 32), (48, 16)])
def test_embedding_rows_err_by_half_a_step(columns, group):
    values = np.random.default_rng(7).normal(size=(40, columns)).astype(np.float32)
    values[3] = 0
    found = quantize_rows("e", lambda part: values[part], values.shape)
    assert found.bits == 8
    assert found.scales.shape == (40, columns // group)
    largest = np.repeat(np.abs(values.reshape(40, -1, group)).max(axis=-1), group, axis=1)
    assert (np.abs(found.values() - values) <= largest / 254 * 1.0001).all()
    assert np.abs(found.codes).max() == 127


def test_embedding_rows_must_divide():
    with pytest.raises(LoadError, match="divide neither by 32 nor by 16"):
        quantize_rows("e", lambda part: np.ones((1, 40), np.float32), (1, 40))


LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": LLAMA_3,
    "yarn": YARN,
    "yarn, attention factor": YARN | {"attention_factor": 1.25},
    "yarn, mscale": YARN | {"mscale": 0.707, "mscale_all_dim": 1.0},
    "yarn, betas": YARN | {"beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, not truncated": YARN | {"truncate": False},
    "yarn, short": YARN | {"factor": 32.0, "original_max_position_embeddings": 16},
}


@pytest.mark.parametrize("kind", ROPES)
def test_frequencies_equal_transformers(kind):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    parameters = ROPES[kind] | {"rope_theta": 500000.0}
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=2, rope_parameters=parameters, max_position_embeddings=4096
    )
    expected = LlamaRotaryEmbedding(config)
    np.testing.assert_allclose(scaled_frequencies(128, parameters), expected.inv_freq.numpy(), rtol=6e-7)
    assert rope_of(128, parameters).attention_factor == pytest.approx(expected.attention_scaling, rel=1e-12)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "mrope"}, "'mrope' is not supported"),
        ({"rope_type": "yarn", "factor": 2.0}, "original_max_position_embeddings is None"),
        ({"rope_type": "default", "mrope_section": [1, 2]}, "'mrope_section'"),
        ({"partial_rotary_factor": 1.5}, "not a share"),
        ({"partial_rotary_factor": 0.02}, "need pairs"),
        ({"rope_theta": float("nan")}, "rotary base is nan"),
        ({"rope_type": "linear", "factor": 0}, "rope factor is 0"),
        (LLAMA_3 | {"high_freq_factor": 0.5}, "not above"),
        ({**LLAMA_3, "low_freq_factor": None}, "rope low_freq_factor is None"),
    ],
)
def test_unknown_rotations_are_refused(rope, message):
    with pytest.raises(LoadError, match=message):
        scaled_frequencies(64, {"rope_theta": 1e4} | rope)


GOOD = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_layers": 1,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "rms_norm_eps": 1e-5,
    "activation": "silu",
    "attention": (LayerAttention(Rope((1.0,) * 8), window=16),),
    "attention_scale": 0.25,
    "context_tokens": 64,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"num_layers": True}, "num_layers is True"),
        ({"num_kv_heads": 3}, "4 heads do not divide among 3"),
        ({"head_dim": 15}, "15 is odd"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0"),
        ({"activation": "gelu"}, "'gelu' is not one of silu, relu2"),
        ({"attention": (LayerAttention(Rope((1.0,) * 9)),)}, "9 rotary frequencies for heads of 16"),
        ({"attention": ()}, "attention of 0 layers for 1"),
        ({"attention": (LayerAttention(None, window=0),)}, "a window of 0 tokens"),
        ({"attention_scale": float("nan")}, "attention_scale is nan"),
    ],
)
def test_configurations_are_checked(change, message):
    assert DecoderConfig(**GOOD).head_dim == 16
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**GOOD | change)


def test_rotations_are_checked():
    with pytest.raises(ValueError, match="not all finite"):
        Rope((float("inf"),) * 8)
    with pytest.raises(ValueError, match=r"attention factor 0\.0"):
        Rope((1.0,), attention_factor=0.0)
