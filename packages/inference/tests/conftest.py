"""Models for all tests: the packaged SmolLM2, as shipped (dense), and a random ternary one that speaks
its tokens."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import finish

from wf_formats.gguf import open_gguf
from wrinklefree_inference.llamacpp.engine import LlamaCppEngine
from wrinklefree_inference.llamacpp.server import start_server
from wrinklefree_inference.options import (
    EngineOptions,
    ListenOptions,
    LlamaCppServerOptions,
    ServedEngineOptions,
)

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def own_log() -> Iterator[None]:
    """For commands in this process that serve: they send its log to an stderr that ends with the command."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def server_url(packaged_gguf: Path) -> Iterator[str]:
    """A llama.cpp server of the packaged model on loopback, without a key."""
    options = LlamaCppServerOptions(packaged_gguf, ListenOptions(port=0), ServedEngineOptions(1024, 1))
    server = start_server(options)
    yield server.listening_address
    del server


@pytest.fixture(scope="session")
def engine(packaged_gguf: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(packaged_gguf, EngineOptions(512, 1)) as opened:
        yield opened


MATRICES = {
    "attn_q": (128, 128),
    "attn_k": (64, 128),
    "attn_v": (64, 128),
    "attn_output": (128, 128),
    "ffn_gate": (256, 128),
    "ffn_up": (256, 128),
    "ffn_down": (128, 256),
}


@pytest.fixture(scope="session")
def ternary_gguf(packaged_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ternary Llama of two layers with the packaged model's tokenizer and chat template."""
    path = tmp_path_factory.mktemp("model") / "two-layers.gguf"
    write_ternary_gguf(path, packaged_gguf, seed=0)
    return path


@pytest.fixture(scope="session")
def other_ternary_gguf(packaged_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    path = tmp_path_factory.mktemp("model") / "others.gguf"
    write_ternary_gguf(path, packaged_gguf, seed=1)
    return path


def write_ternary_gguf(path: Path, packaged_gguf: Path, seed: int) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    keys = open_gguf(packaged_gguf).keys
    for key, value in keys.items():
        if key.startswith("tokenizer."):
            kind = gguf.GGUFValueType.get_type(value)
            item = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
            writer.add_key_value(key, value, kind, item)
    writer.add_block_count(2)
    writer.add_context_length(2048)
    writer.add_embedding_length(128)
    writer.add_feed_forward_length(256)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    random = np.random.default_rng(seed)
    vocab_size = len(keys["tokenizer.ggml.tokens"])
    writer.add_tensor("token_embd.weight", random.normal(0, 0.05, (vocab_size, 128)).astype(np.float16))
    norms = ["output_norm", *(f"blk.{layer}.{name}_norm" for layer in range(2) for name in ("attn", "ffn"))]
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(128, np.float32))
    for layer in range(2):
        for name, shape in MATRICES.items():
            codes = random.integers(-1, 2, shape)
            writer.add_tensor(f"blk.{layer}.{name}.weight", (codes * 0.0625).astype(np.float16))
    finish(writer)


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts `serve` with options on a free port; gives the process and its URL, which ends in /v1."""
    with ExitStack() as stack:

        def start(*options: str) -> tuple[subprocess.Popen[str], str]:
            command = [sys.executable, "-m", "wrinklefree_inference", "serve", "--port", "0", *options]
            child = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            line = child.stdout.readline()
            assert " at " in line, child.stderr.read()
            return child, line.split(" at ")[1].split(" ")[0]

        yield start
