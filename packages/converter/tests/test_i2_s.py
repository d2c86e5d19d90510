"""I2_S files for bitnet.cpp: bytes as its x86 kernels read them, codes and scales those of the checkpoint."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import bitnet_arch
from wf_converter.checkpoint import open_checkpoint
from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wf_converter.readback import GgufWeights
from wf_converter.scores import llamacpp_scores
from wf_converter.verify import verify
from wf_formats.errors import FormatError
from wf_formats.families.block import HF_STEMS, MATRICES
from wf_formats.gguf import TensorType, open_gguf
from wf_formats.gguf.blocks import encode
from wf_formats.models import open_model
from wrinklefree_inference import Sampling, open_engine
from wrinklefree_inference.options import BitnetCppOptions, EngineOptions

QUESTIONS = ["a class", "def f(x):", "import", "The with statement", "0", "lambda", "What is it?", "call"]


@pytest.fixture(scope="module")
def without_sub_norm(tmp_path_factory, tiny_llama, tiny_tokenizer, spread, ids):
    """Checkpoint of a Llama with one scale for a matrix and no SubLN."""
    model = tiny_llama()
    spread(model)
    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer("tensor"), sub_norm=False)
    bitnet_arch.convert(model, config, torch.tensor([ids] * 6))
    folder = tmp_path_factory.mktemp("tensor") / "checkpoint"
    bitnet_arch.save_checkpoint(model, tiny_tokenizer("smollm"), folder, {"stage": "stage2"})
    return folder


@pytest.fixture(params=["SubLN", "no SubLN"])
def source(request, checkpoint, without_sub_norm):
    """(checkpoint, architecture)"""
    if request.param == "SubLN":
        return checkpoint("llama-tensor"), "bitnet"
    return without_sub_norm, "llama"


def test_bytes_by_hand():
    """Byte j of a block holds weights j, j + 32, j + 64, j + 96, the highest bits first; then the scale."""
    codes = np.random.default_rng(0).integers(-1, 2, (2, 256)).astype(np.int8)
    data = encode(codes, np.float32(0.3), TensorType.I2_S)
    assert data.size == TensorType.I2_S.num_bytes(codes.size) == codes.size // 4 + 32
    for index, code in enumerate(codes.reshape(-1)):
        block, place = divmod(index, 128)
        assert data[32 * block + place % 32] >> (6 - 2 * (place // 32)) & 3 == code + 1, index
    assert data[codes.size // 4 :].tobytes() == struct.pack("<f", 0.3) + bytes(28)
    with pytest.raises(FormatError, match="one scale for the whole matrix, this one has 4"):
        encode(codes, np.ones((2, 2), np.float32), TensorType.I2_S)
    with pytest.raises(FormatError, match="rows of 192 weights are not a multiple of the 128 of i2_s"):
        encode(codes[:, :192], np.float32(1), TensorType.I2_S)


def test_the_file_is_bitnet_cpps(source, tmp_path):
    folder, architecture = source
    path = tmp_path / "model.gguf"
    prepare_gguf(folder, "i2_s").write(path)
    file = open_gguf(path)
    assert file.keys["general.architecture"] == architecture
    assert file.keys["general.file_type"] == 40
    assert not [name for name in file.tensors if name.endswith(".scale")], "the scale would count twice"
    matrices = {name: tensor for name, tensor in file.tensors.items() if tensor.ggml_type == 36}
    assert len(matrices) == 2 * len(MATRICES)
    with pytest.raises(ValueError, match=r"36\)? is not a valid GGMLQuantizationType"):
        gguf.GGUFReader(path)
    ends = {tensor.offset: tensor.offset + tensor.num_bytes for tensor in file.tensors.values()}
    for tensor in matrices.values():
        assert ends[tensor.offset] - tensor.offset == math.prod(tensor.shape) // 4 + 32
        assert tensor.offset % 32 == 0


def test_codes_and_scales_come_back_exactly(source, tmp_path):
    folder, _ = source
    path, opened = tmp_path / "model.gguf", open_checkpoint(folder)
    prepare_gguf(folder, "i2_s").write(path)
    model, weights = open_model(path), GgufWeights(open_gguf(path), opened)
    for part in MATRICES:
        name = f"model.layers.1.{HF_STEMS[part]}.weight"
        expected, found = opened.matrix(name), model.matrix(1, part)
        assert np.array_equal(found.codes, expected.codes)
        assert found.scales == expected.scales
        assert np.array_equal(weights.values(name), weights.expected_order(name, expected).values())


def test_it_is_proved_by_the_native_engine(source, ids, tmp_path):
    folder, _ = source
    path = tmp_path / "model.gguf"
    prepare_gguf(folder, "i2_s", "q8_0").write(path)
    found = verify(folder, path, ids)
    assert found.passed, found.problems
    assert found.runtime == "the native engine"
    assert found.weights.max_scale_error == 0
    assert found.judged.mean_abs_delta < 0.1, found.judged  # its cache is fp16: measured 0.05


@pytest.mark.parametrize("where", ["a scale", "a code"])
def test_a_wrong_weight_is_not_proved(where, without_sub_norm, ids, tmp_path):
    path = tmp_path / "model.gguf"
    prepare_gguf(without_sub_norm, "i2_s").write(path)
    tensor = open_gguf(path).tensors["blk.1.ffn_up.weight"]
    data = bytearray(path.read_bytes())
    scale = tensor.offset + tensor.num_bytes - 32
    if where == "a scale":
        (value,) = struct.unpack_from("<f", data, scale)
        struct.pack_into("<f", data, scale, 1.01 * value)
    else:
        data[tensor.offset] ^= 0b01000000 if data[tensor.offset] >> 6 else 0b10000000
    path.write_bytes(data)
    found = verify(without_sub_norm, path, ids)
    expected = (
        "scale of model.layers.1.mlp.up_proj.weight is off by 1.00%"
        if where == "a scale"
        else "1 codes differ"
    )
    assert expected in "; ".join(found.problems)


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        (
            "llama-tensor-192",
            "i2_s",
            "weights are not a multiple of 128, the block of i2_s; types that hold it exactly",
        ),
        ("llama-group64", "i2_s", "i2_s has one scale for the whole matrix, the model has scales per group"),
        ("llama-tensor", "tl1", "tiles that are compiled in for the matrix sizes of one model"),
        ("llama-tensor", "tl2", "take i2_s"),
        ("llama-tensor", "iq2_bn", "of ik_llama.cpp, whose llama-quantize makes it of a file of type i2_s"),
    ],
)
def test_what_cannot_be_held_is_refused(case, kind, message, checkpoint):
    with pytest.raises(ExportError, match=message):
        prepare_gguf(checkpoint(case), kind)


def test_architectures_that_bitnet_cpp_lacks_are_refused(tmp_path, tiny_qwen2, tiny_tokenizer, ids):
    model = tiny_qwen2()
    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer("tensor"), sub_norm=False)
    bitnet_arch.convert(model, config, torch.tensor([ids] * 6))
    bitnet_arch.save_checkpoint(model, tiny_tokenizer("qwen2"), tmp_path / "c", {"stage": "stage2"})
    with pytest.raises(
        ExportError, match=r"architecture qwen2, bitnet\.cpp computes llama and bitnet with i2_s"
    ):
        prepare_gguf(tmp_path / "c", "i2_s")


def test_llama_cpp_is_not_asked(without_sub_norm, ids, tmp_path):
    path = tmp_path / "model.gguf"
    prepare_gguf(without_sub_norm, "i2_s").write(path)
    with pytest.raises(ExportError, match=r"i2_s, which bitnet\.cpp reads and llama\.cpp does not"):
        llamacpp_scores(path, ids)


@pytest.mark.slow
def test_a_build_of_bitnet_cpp_answers_alike(source, tmp_path):
    """First tokens of chats: rounding noise may part one or two, a wrong order of bytes all."""
    if not os.environ.get("WF_BITNETCPP"):
        pytest.skip("$WF_BITNETCPP names no build of bitnet.cpp")
    folder, _ = source
    path = tmp_path / "model.gguf"
    prepare_gguf(folder, "i2_s").write(path)
    build = Path(os.environ["WF_BITNETCPP"])
    answers = []
    for name, options in (("native", EngineOptions(256, 1)), ("bitnetcpp", BitnetCppOptions(256, 1, build))):
        engine = open_engine(path, name, options)
        try:
            asked = [[{"role": "user", "content": text}] for text in QUESTIONS]
            answers.append([engine.chat(one, Sampling(max_tokens=1, temperature=0)).text() for one in asked])
        finally:
            engine.close()
    same = sum(ours == theirs for ours, theirs in zip(*answers, strict=True))
    assert same >= len(QUESTIONS) - 2, answers
