"""The rule of `auto`, names, and refusals that name the tensor and the alternatives."""

import pytest

from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wf_converter.gguf_plan import choose_type, gguf_name


@pytest.mark.parametrize(
    ("columns", "grouped", "kind"),
    [(512, False, "tq2_0"), (576, False, "q4_0"), (512, True, "q4_0"), (100, False, "f16")],
)
def test_auto_takes_the_fastest_exact_type(columns, grouped, kind):
    assert choose_type("w", columns, grouped, "auto")[0].label == kind


@pytest.mark.parametrize(
    ("columns", "grouped", "wanted", "reason", "alternatives"),
    [
        (576, False, "tq2_0", "rows of 576 weights are not a multiple of 256", "q2_0, q4_0, f16"),
        (512, True, "tq1_0", "scales per group are finer than the 256-weight", "q2_0, q4_0, f16"),
        (96, False, "q2_0", "rows of 96 weights are not a multiple of 64", "q4_0, f16"),
    ],
)
def test_a_type_that_cannot_hold_it_is_refused(columns, grouped, wanted, reason, alternatives):
    with pytest.raises(ExportError, match=f"^blk.0.w: .*{reason}.*: {alternatives}"):
        choose_type("blk.0.w", columns, grouped, wanted)


def test_choice_per_tensor(checkpoint):
    """FFN rows of 512 and attention rows of 192 go to different types in one file."""
    overrides = {"intermediate_size": 512}
    plan = prepare_gguf(checkpoint("llama-tensor-192", **overrides)).tensors
    types = {tensor.name: tensor.type_name for tensor in plan}
    assert types["blk.0.ffn_down.weight"] == "tq2_0"
    assert types["blk.0.attn_q.weight"] == "q4_0"
    assert types["blk.0.attn_q.scale"] == "f32"


def test_a_tensor_without_a_place_is_refused():
    with pytest.raises(ExportError, match=r"^model\.layers\.0\.moe\.gate\.weight: no GGUF tensor"):
        gguf_name("model.layers.0.moe.gate.weight")


def test_unknown_type_of_embeddings_lists_the_known(checkpoint):
    with pytest.raises(ExportError, match="'q5' of the embeddings; known: f16, q8_0"):
        prepare_gguf(checkpoint("llama-tensor"), "auto", "q5")


def test_unknown_type_lists_the_known(checkpoint):
    with pytest.raises(ExportError, match="'q5_k'; known: auto, tq1_0, tq2_0, q2_0, q4_0, q4_1, f16, q8_0"):
        prepare_gguf(checkpoint("llama-tensor"), "q5_k")


def test_tensor_name_in_the_refusal_of_a_whole_model(checkpoint):
    with pytest.raises(ExportError, match=r"model\.layers\.0\.\S+: .*256.*or auto"):
        prepare_gguf(checkpoint("llama-tensor-192"), "tq2_0")
