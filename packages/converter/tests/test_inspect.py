"""What is said of model files agrees with the files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_hf
from wf_converter.inspect import Inspection, _show, inspect_model
from wf_formats.errors import RequestError


@pytest.fixture
def files(checkpoint, tmp_path) -> dict[str, Path]:
    folder = checkpoint("llama-group64")
    prepare_gguf(folder, "q2_0", "q8_0").write(tmp_path / "model.gguf")
    prepare_hf(folder).write(tmp_path / "packed")
    return {"checkpoint": folder, "gguf": tmp_path / "model.gguf", "hf": tmp_path / "packed"}


def test_kinds_sizes_and_the_engine(files):
    found = {name: inspect_model(path) for name, path in files.items()}
    assert found["checkpoint"].kind == "training checkpoint"
    assert found["hf"].kind == "exported folder, ternary weights (group64)"
    assert found["gguf"].kind == "GGUF file"
    assert {name: one.facts["scheme"] for name, one in found.items()} == dict.fromkeys(files, "group64")
    assert all(one.native_engine.startswith("yes") for one in found.values())
    matrices = {
        name: next(group for group in one.tensors if group.role == "matrices of the blocks")
        for name, one in found.items()
    }
    assert [matrices[name].type for name in files] == ["F32", "q2_0", "2-bit codes in U8"]
    weights = matrices["gguf"].num_weights
    assert matrices["checkpoint"].num_bytes == 4 * weights
    assert matrices["gguf"].num_bytes == weights * 18 // 64
    assert {one.num_weights for one in matrices.values()} == {weights}
    assert matrices["hf"].num_bytes == weights // 4


def test_what_the_engine_refuses_is_told(files):
    config_file = files["hf"] / "config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(config | {"hidden_act": "gelu"}))
    assert "gelu" in inspect_model(files["hf"]).native_engine


def test_a_dense_folder_is_told_to_be_converted(tiny_llama, tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    found = inspect_model(tmp_path)
    assert found.kind == "Hugging Face folder (dense)"
    assert "convert it first" in found.native_engine


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file or folder .*nowhere"):
        inspect_model(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_what_is_no_file_is_a_wrong_request(path):
    with pytest.raises(RequestError, match=f"{path} is neither a file nor a folder"):
        inspect_model(Path(path))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all"])
def test_other_files_are_an_error_in_one_line(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "wf_converter.inspect", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}")
    assert len(done.stderr.splitlines()) == 1


def test_it_needs_no_torch_and_writes_json(files):
    code = (
        "import sys; from wf_converter.inspect import main; sys.argv = ['inspect', sys.argv[1], '--json']\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(files["gguf"])], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["facts"]["architecture"] == "llama"


def test_names_in_a_file_do_not_steer_the_terminal(capsys):
    _show(Inspection("x", "GGUF file", {"name": "a\x1b[2J[/b]\n\u202e"}, [], "no: \x9b2J"))
    shown = capsys.readouterr().out
    assert r"a\x1b[2J[/b]\n\u202e" in shown
    assert r"no: \x9b2J" in shown
