"""Models of a kind that an engine cannot take: one line that names a way which works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import bitnet_arch
from bitnet_arch.diffusion_model import to_block_diffusion
from wf_converter.hf_export import prepare_compressed, prepare_phases
from wf_formats.errors import UserError
from wrinklefree_inference.llamacpp.gguf_file import check_gguf

_WITHOUT_TORCH = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NotInstalled())
from wrinklefree_inference.application import main
main("wf")
"""


def test_a_checkpoint_without_pytorch_is_refused_in_one_line(checkpoint):
    """What was loaded before is freed: the extension tells of what is not when the process ends."""
    command = ["serve", "--model", str(checkpoint("llama-group64")), "--port", "0", "--no-cache"]
    found = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *command], capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert "it is a training checkpoint, whose weights bitnet-arch quantizes with PyTorch" in found.stderr
    assert "wf export --checkpoint FOLDER --output NAME.gguf" in found.stderr
    assert len(found.stderr.splitlines()) == 1, found.stderr


@pytest.fixture
def folder(checkpoint, tiny_llama, tmp_path):
    """Factory: a folder by the name of its kind."""

    def make(kind: str) -> Path:
        target = tmp_path / "folder"
        if kind == "dense":
            tiny_llama().save_pretrained(target)
        elif kind == "checkpoint":
            return checkpoint("llama-group64")
        elif kind == "phases":
            prepare_phases(checkpoint("llama-group64", "fairy2-w1")).write(target)
        elif kind == "complex checkpoint":
            return checkpoint("llama-group64", "fairy2-w1")
        elif kind == "export":
            prepare_compressed(checkpoint("llama-group64")).write(target)
        elif kind == "diffusion":
            loaded = bitnet_arch.load_checkpoint(checkpoint("llama-group64"))
            to_block_diffusion(loaded.model, loaded.tokenizer, 8)
            bitnet_arch.save_checkpoint(loaded.model, loaded.tokenizer, target, {"stage": "dlm"})
        else:
            target.mkdir()
            for name in {"files": ("b.gguf", "a.gguf"), "empty": ()}[kind]:
                (target / name).touch()
        return target

    return make


@pytest.mark.parametrize(
    ("kind", "way"),
    {
        "dense": r"a dense model, of which llama\.cpp's convert_hf_to_gguf\.py makes a GGUF file",
        "checkpoint": r"training checkpoint: `wf export --checkpoint .* --output NAME\.gguf` makes one",
        "phases": r"complex weights of 1 bit \(fairy2-w1\), whose sums no type of GGUF has: the native",
        "complex checkpoint": r"the native engine runs it \(--engine native\); packages/fairy2/scripts/dense",
        "export": r"ternary weights \(group64\) for other runtimes: the native engine runs it",
        "diffusion": r"block-diffusion model .*: the native engine is for it",
        "files": r"give one of its files: a\.gguf, b\.gguf",
        "empty": r"it holds no model, neither config\.json nor a \.gguf file",
    }.items(),
)
def test_a_folder_where_a_gguf_file_is_asked_for(kind, way, folder):
    with pytest.raises(UserError, match=way):
        check_gguf(folder(kind))
