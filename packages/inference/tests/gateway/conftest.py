"""Workers and routers of the standard library, which start at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wrinklefree_inference.gateway.fleet import Fleet
from wrinklefree_inference.gateway.options import Policy
from wrinklefree_inference.gateway.router import Router
from wrinklefree_inference.gateway.worker import Worker

HERE = Path(__file__).parent
KEY = "key-of-the-fleet"


@pytest.fixture
def written() -> list[str]:
    """What workers have written."""
    return []


@pytest.fixture
def new_worker(written: list[str]) -> Callable[..., Worker]:
    """Makes a worker of the fake server."""

    def make(model: str = "toy", first_pause_s: float = 0.05, key: str = KEY) -> Worker:
        program = [sys.executable, "-S", str(HERE / "fake_worker.py")]
        return Worker("worker 1", [f"--model={model}"], key, written.append, first_pause_s, program)

    return make


@pytest.fixture
def new_fleet(new_worker: Callable[..., Worker]) -> Callable[..., Fleet]:
    """Makes a fleet of two of them and the fake router."""

    def make(model: str = "toy", urls: tuple[str, ...] = ()) -> Fleet:
        command = [sys.executable, "-S", str(HERE / "fake_router.py")]
        router = Router(Policy.CACHE_AWARE, KEY, 4_000_000, 0.05, command)
        return Fleet([new_worker(model), new_worker(model)], urls, router, KEY)

    return make
