"""Values of config.json and generation_config.json: of their kind, or refused by key and value."""

from __future__ import annotations

import json
import math
import re

import pytest

from wf_formats.bounds import INT32_MAX
from wf_formats.errors import LoadError
from wf_formats.families.settings import FLAGS, NUMBERS, check_values, required
from wf_formats.generation import read_generation
from wf_formats.rope import ROPE_KINDS, rope_kind

CONFIG = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
    "eos_token_id": [2, 3],
}
NO_NUMBERS = ("4", True, [], {}, [4], math.nan, math.inf, -math.inf, -1, 10**18, 1e300, 1e-300)
BASES = ("rope_theta", "rope_local_base_freq")
"""Which may be large."""
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}
LLAMA_3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def refused(changes, *names):
    with pytest.raises(LoadError) as error:
        check_values(CONFIG | changes)
    assert "\n" not in str(error.value)
    for name in names:
        assert name in str(error.value)


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_are_numbers_in_their_range(key):
    low = NUMBERS[key].bounds.minimum
    bad = [*NO_NUMBERS, *([0, 1.5] if NUMBERS[key].is_whole and low == 1 else [])]
    bad += [] if NUMBERS[key].may_be_null else [None]
    for value in bad:
        if not (value == 1e-300 and low == 0) and not (value == 10**18 and key in BASES):
            refused({key: value}, f"config.json: {key} is {value!r:.60}, not ")
    if NUMBERS[key].may_be_null:
        check_values(CONFIG | {key: None})


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        *((key, ["false", 0, 1, [], {}]) for key in FLAGS),
        *(
            (key, ["float33", "torch.float16", [], ["float32"], 3, {}, True])
            for key in ("dtype", "torch_dtype")
        ),
        *(
            (key, [INT32_MAX + 1, -2, "2", 1.0, True, {}])
            for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        ),
        ("eos_token_id", [[2, 2**31], [[2]], ["</s>"], -2]),
        ("pad_token_id", [[2], 300]),
        ("layer_types", ["full_attention", 5, {}, [3]]),
        ("no_rope_layers", ["1", 5, {}, ["1"]]),
        ("rope_parameters", ["linear", 5, [1], {"full_attention": 3}]),
        ("rope_scaling", ["linear", True, 0]),
    ],
)
def test_other_values_are_of_their_kind(key, bad):
    for value in bad:
        refused({key: value}, key.removeprefix("_"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 65}, "hidden_size 65 does not divide among num_attention_heads 4"),
        ({"hidden_size": 60}, "head_dim 15 is odd"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 do not divide among num_key_value_heads 3"),
    ],
)
def test_heads_fit_together(changes, message):
    refused(changes, message)


@pytest.mark.parametrize("kind", [*ROPE_KINDS, "of tomorrow"])
@pytest.mark.parametrize(
    "key", ["factor", "rope_theta", "attention_factor", "original_max_position_embeddings", "beta_fast"]
)
def test_numbers_of_rotary_positions(kind, key):
    """Whatever a scaling is called, and per type of layer too."""
    bad = [value for value in NO_NUMBERS if value != 10**18 or key not in BASES]
    for value in [*bad, *([] if key == "beta_fast" else [0])]:
        rope = {"rope_type": kind, key: value}
        refused({"rope_parameters": rope}, f"rope {key} is {value!r:.60}")
        refused({"rope_scaling": {"sliding_attention": rope, "full_attention": None}}, f"rope {key} is ")


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (LLAMA_3 | {"high_freq_factor": 1.0}, "is not above low_freq_factor"),
        (YARN | {"rope_theta": 1}, "the rotary base is 1"),
        (YARN | {"factor": -2}, "rope factor is -2"),
        ({"rope_type": "linear", "factor": 0}, "rope factor is 0"),
        ({"rope_type": "linear"}, "rope factor is None"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 7}, "not 8 numbers"),
        ({"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [0.0]}, "long_factor"),
    ],
)
def test_frequencies_can_be_computed(rope, message):
    refused({"rope_parameters": rope}, message)


def test_long_values_are_cut():
    with pytest.raises(LoadError, match="long_factor") as error:
        rope_kind({"rope_type": "yarn", "long_factor": [1.0] * 500})
    assert len(str(error.value)) < 150


def test_what_models_say_passes():
    for changes in (
        {},
        {"rope_parameters": YARN},
        {"rope_scaling": LLAMA_3, "dtype": "bfloat16"},
        {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}},
        {"rope_theta": 1e9, "pad_token_id": -1, "num_key_value_heads": None, "bos_token_id": 128000},
    ):
        check_values(CONFIG | changes)
    check_values({})
    with pytest.raises(LoadError, match=r"config\.json: vocab_size is None"):
        required({}, "vocab_size")


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("temperature", ["hot", -1, math.nan, True, 1e9]),
        ("top_p", [7, -0.5, [0.9]]),
        ("top_k", [-2, 1.5, "50", math.inf]),
        ("min_p", [2]),
        ("typical_p", [7]),
        ("repetition_penalty", [0, 100]),
        ("max_new_tokens", [-1, 10**18, "many"]),
        ("num_beams", [0]),
        ("do_sample", ["yes", 1]),
        ("eos_token_id", [300, [2, 300], "</s>", {"a": 1}, 2.5]),
        ("pad_token_id", ["</s>", [2, 3], 2.5, True]),
        ("decoder_start_token_id", [10**6]),
    ],
)
def test_sampling_is_what_a_runtime_can_do(key, bad, tmp_path):
    path = tmp_path / "generation_config.json"
    for value in bad:
        path.write_text(json.dumps({key: value}))
        with pytest.raises(LoadError, match=re.escape(f"{path}: {key} is {value!r}, not ")):
            read_generation(tmp_path, 300)


@pytest.mark.parametrize(
    ("stated", "meant", "warning"),
    [
        ({"top_k": 50.0, "max_new_tokens": 8.0}, {"top_k": 50, "max_new_tokens": 8}, None),
        ({"top_k": -1, "top_p": 0.9}, {"top_k": 0, "top_p": 0.9}, None),
        ({"top_k": -1.0}, {"top_k": 0}, None),
        ({"top_p": 0.0, "top_k": 1}, {"top_k": 1}, None),
        ({"top_p": 0, "top_k": 40}, {"top_k": 1}, None),
        ({"pad_token_id": [2], "bos_token_id": 1.0}, {"pad_token_id": 2, "bos_token_id": 1}, None),
        ({"eos_token_id": [2]}, {"eos_token_id": [2]}, None),
        ({"eos_token_id": [2.0, 9]}, {"eos_token_id": [2, 9]}, None),
        ({"pad_token_id": 300, "eos_token_id": 2}, {"eos_token_id": 2}, "pad_token_id 300 is passed over"),
        ({"pad_token_id": [10**18]}, {}, "pad_token_id 1000000000000000000 is passed over"),
        ({"pad_token_id": -100}, {}, "pad_token_id -100 is passed over"),
        ({"pad_token_id": -1}, {"pad_token_id": -1}, None),
    ],
)
def test_what_only_steers_sampling_is_taken_as_it_is_meant(stated, meant, warning, tmp_path, caplog):
    (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    read = read_generation(tmp_path, 300)
    assert repr(read) == repr(meant)
    assert [warning in message for message in caplog.messages] == ([True] if warning else [])


def test_sampling_that_models_state_is_kept(tmp_path):
    assert read_generation(tmp_path, 300) is None
    stated = {"eos_token_id": [2, 9], "temperature": 0.0, "top_p": 1, "top_k": 0, "pad_token_id": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(stated | {"cache_config": 3}))
    assert read_generation(tmp_path, 300) == stated | {"cache_config": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 999}))
    assert read_generation(tmp_path, None) == {"eos_token_id": 999}
