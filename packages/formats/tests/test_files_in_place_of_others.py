"""Files that are not what their name says: pointers of Git LFS, JSON with a byte order mark."""

from __future__ import annotations

import pytest

from wf_formats.errors import LoadError
from wf_formats.gguf import open_gguf
from wf_formats.json_file import read_json, read_value
from wf_formats.models import open_model
from wf_formats.safetensors_file import open_folder, open_safetensors
from wf_formats.tokenizer import read_files

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 269060552\n"
READERS = {
    "model.safetensors": (open_safetensors, lambda path: open_folder(path.parent)),
    "model.gguf": (open_gguf, lambda path: open_model(path, None)),
    "config.json": (read_json, read_value),
    "tokenizer.json": (read_json, lambda path: read_files(path.parent)),
    "model.safetensors.index.json": (lambda path: open_folder(path.parent),),
}


@pytest.mark.parametrize("name", READERS)
def test_pointers_of_git_lfs_are_told_apart(name, tmp_path):
    path = tmp_path / name
    path.write_text(POINTER)
    for read in READERS[name]:
        with pytest.raises(ValueError, match=rf"{name} is not there yet.*`git lfs pull` in {tmp_path}"):
            read(path)


def test_byte_order_marks_are_named(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8-sig")
    with pytest.raises(LoadError, match=r"config\.json begins with a byte order mark"):
        read_json(tmp_path / "config.json")
