"""What is fuzzed: for each kind of input its undamaged files, how they are damaged, and what reads them.

A reader may give something or raise a UserError; anything else is a finding.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutate

Mutator = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A kind of input."""

    seeds: Path
    """Folder with undamaged files; each case copies it and damages one of `files`."""
    files: tuple[str, ...]
    mutate: Mutator
    read: Callable[[Path], Any]
    """Takes the folder of the case."""


def text(folder: Path) -> None:
    from data_handler import read_documents

    for path in folder.iterdir():
        for document in read_documents(path):
            document.encode()


def tensors(folder: Path) -> None:
    from wf_formats.safetensors_file import open_folder

    opened = open_folder(folder)
    for name in opened.shapes:
        opened.raw(name)


def model(folder: Path) -> None:
    """A folder or the only GGUF file in it, into the decoder, which then runs."""
    import numpy as np

    import ternary_kernels as tk
    from ternary_kernels.loading import load_model

    gguf = [path for path in folder.iterdir() if path.suffix == ".gguf"]
    weights = load_model(gguf[0] if gguf else folder)
    decoder = tk.Decoder(weights, 1, "f16", 1)
    ids, zero = np.zeros(2, np.int32), np.zeros(1, np.int32)
    decoder.forward(ids, np.array([0, 2], np.int32), zero, zero.reshape(1, 1), np.array([1], np.int32))


def tokenizer(folder: Path) -> None:
    from wrinklefree_inference.native.tokenizer import load_tokenizer

    gguf = [path for path in folder.iterdir() if path.suffix == ".gguf"]
    loaded = load_tokenizer(gguf[0] if gguf else folder)
    loaded.decode(loaded.encode("Hello <|im_start|>world, \u00e9\U0001f642 12345"))


def template(folder: Path) -> None:
    from wf_formats.chat_template import ChatTemplate

    source = (folder / "chat_template.jinja").read_bytes().decode(errors="replace")
    rendered = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}).render(
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    )
    rendered.encode()


def manifest(folder: Path) -> None:
    from wrinklefree.checkpoints.manifest import verify_manifest

    verify_manifest(folder)


def write_texts(folder: Path) -> None:
    """The same documents as JSON lines, plain and compressed, Parquet and text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    documents = [f"Document {i}: " + "the quick brown fox, \u00e9\U0001f642. " * (i % 7) for i in range(60)]
    lines = "".join(json.dumps({"text": document, "id": i}) + "\n" for i, document in enumerate(documents))
    (folder / "a.jsonl").write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "a.txt").write_text("\n\n".join(documents))
    table = pa.table({"text": documents, "id": list(range(60))})
    pq.write_table(table, folder / "a.parquet", row_group_size=20, write_page_checksum=True)


def write_manifest(folder: Path) -> None:
    """A small checkpoint folder as the trainer leaves it."""
    from wrinklefree.checkpoints import manifest as manifests

    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "trainer.json").write_text("{}")
    (folder / "sub").mkdir()
    (folder / "sub" / "part.json").write_text("[]")
    manifests.write_manifest(folder)


def all_targets(samples: Path) -> dict[str, Target]:
    """Every kind by its name; `samples` has folders made by the test (samples.py)."""
    text_files = ("a.jsonl", "a.jsonl.gz", "a.parquet", "a.txt")
    return {
        "text": Target(samples / "text", text_files, mutate.bytes_of, text),
        "json lines": Target(samples / "text", ("a.jsonl",), _json_lines, text),
        "safetensors": Target(samples / "model", ("model.safetensors",), _safetensors, tensors),
        "model folder": Target(
            samples / "model", ("config.json", "model.safetensors"), _json_or_safetensors, model
        ),
        "gguf": Target(samples / "gguf", ("model.gguf",), _gguf, model),
        "gguf tokenizer": Target(samples / "gguf", ("model.gguf",), _gguf, tokenizer),
        "tokenizer.json": Target(
            samples / "model", ("tokenizer.json", "tokenizer_config.json"), mutate.json_of, tokenizer
        ),
        "chat template": Target(samples / "template", ("chat_template.jinja",), mutate.template_of, template),
        "manifest": Target(samples / "manifest", ("manifest.json",), mutate.json_of, manifest),
    }


def _json_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = mutate.json_of(lines[at], rng)
    return b"\n".join(lines)


def _json_or_safetensors(data: bytes, rng: random.Random) -> bytes:
    return mutate.json_of(data, rng) if data[:1] == b"{" else _safetensors(data, rng)


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    """Mostly the header, which is JSON behind its length."""
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3:
        return mutate.bytes_of(data[: 8 + length], rng) + data[8 + length :]
    header = mutate.json_of(data[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _gguf(data: bytes, rng: random.Random) -> bytes:
    """Mostly the keys and the table of tensors at the beginning."""
    head = rng.choice((256, 2048, len(data) // 2))
    return mutate.bytes_of(data[:head], rng) + data[head:]
