"""Our reader against gguf-py's, on a file that both can read; Q2_0, keys and damage."""

import dataclasses

import gguf
import numpy as np
import pytest

from wf_converter.checkpoint import open_checkpoint
from wf_converter.gguf_export import prepare_gguf
from wf_formats.gguf import GgufError, open_gguf


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")

    def write(kind):
        path = folder / f"{kind}.gguf"
        if not path.exists():
            prepare_gguf(checkpoint("llama-tensor"), kind, "q8_0", license_name="mit").write(path)
        return path

    return write


def test_agrees_with_gguf_py(written):
    theirs, ours = gguf.GGUFReader(written("tq2_0")), open_gguf(written("tq2_0"))
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.keys.keys() == fields.keys()
    for name, field in fields.items():
        assert ours.keys[name] == field.contents(), name
    assert len(theirs.tensors) == len(ours.tensors)
    for tensor in theirs.tensors:
        expected = tensor.data
        if tensor.tensor_type is not gguf.GGMLQuantizationType.F32:
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours.values(tensor.name), expected)


def test_keys(written):
    keys = open_gguf(written("q2_0")).keys
    assert keys["general.architecture"] == "bitnet"
    assert keys["general.file_type"] == 41
    assert keys["general.size_label"] == "1M"
    assert keys["general.license"] == "mit"
    assert keys["wrinklefree.scheme"] == "tensor"
    assert keys["wrinklefree.sub_norm"] is True
    assert keys["wrinklefree.stage"] == "stage2"
    assert len(keys["wrinklefree.source_sha256"]) == 64
    assert keys["tokenizer.ggml.pre"] == "smollm"
    assert "im_start" in keys["tokenizer.chat_template"]


def test_q2_0_tensors_are_read(written):
    file = open_gguf(written("q2_0"))
    assert file.tensors["blk.0.attn_q.weight"].type_name == "q2_0"
    assert set(np.unique(file.values("blk.0.attn_q.weight"))) == {-1, 0, 1}


def test_damage_is_named(written, tmp_path):
    data = written("q2_0").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:-5000])
    with pytest.raises(GgufError, match="ends inside tensor"):
        open_gguf(tmp_path / "cut.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK" + data)
    with pytest.raises(GgufError, match="not a GGUF file"):
        open_gguf(tmp_path / "other.gguf")


def test_an_interrupted_write_leaves_nothing(checkpoint, tmp_path):
    def fail(tensor):
        raise KeyboardInterrupt

    path = tmp_path / "model.gguf"
    path.write_text("older")
    with pytest.raises(KeyboardInterrupt):
        prepare_gguf(checkpoint("llama-tensor")).write(path, fail)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("origin", "name", "license_name"),
    [
        ({"source": "packaged", "name": None}, "SmolLM2-135M-Instruct 1.58-bit", "apache-2.0"),
        ({"source": "hub", "name": "Qwen/Qwen3-0.6B"}, "Qwen3-0.6B 1.58-bit", None),
        (None, "llama-tensor", None),
    ],
)
def test_name_and_license_follow_the_source(checkpoint, origin, name, license_name):
    opened = open_checkpoint(checkpoint("llama-tensor"))
    opened = dataclasses.replace(opened, meta=opened.meta | {"source": origin})
    assert opened.name == name
    assert opened.license == license_name
