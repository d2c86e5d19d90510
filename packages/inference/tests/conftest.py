"""One real model for all tests: the packaged SmolLM2, as shipped and cut to two layers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrinklefree_inference.engines.llamacpp import LlamaCppEngine
from wrinklefree_inference.server import ServerOptions, start_server

os.environ.setdefault("OMP_NUM_THREADS", "1")


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
