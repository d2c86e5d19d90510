"""Files of benchmarks/random_model.py: valid, ternary, the same for a seed, loaded by our reader."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ternary_kernels.loading import load_model

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "random_model.py"


@pytest.fixture(scope="module")
def script(module_of: Callable[[Path], Any]) -> Any:
    """The benchmark as a module: a process for each file would import more than it writes."""
    return module_of(SCRIPT)


@pytest.fixture
def write(script: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command line with these arguments, writing to a path."""

    def run(path: Path, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["random_model.py", *arguments, "--output", str(path)])
        script.main()

    return run


@pytest.mark.parametrize(
    ("matrix_type", "embeddings"), [("tq1_0", "f16"), ("tq2_0", "q6_k"), ("q2_0", "q4_0"), ("q4_0", "q8_0")]
)
def test_a_file_is_a_ternary_model(
    matrix_type: str, embeddings: str, write: Callable[..., None], tmp_path: Path
):
    path = tmp_path / "random.gguf"
    write(path, "random", "--type", matrix_type, "--embeddings", embeddings)
    weights = load_model(path)
    assert weights.config.vocab_size == 512
    assert weights.config.num_layers == len(weights.layers) == 2
    codes, scales = weights.layers[1].down.unpack()
    counts = np.array([(codes == code).mean() for code in (-1, 0, 1)])
    assert codes.shape == (256, 512)
    np.testing.assert_allclose(counts, 1 / 3, atol=0.02)  # all of them ternary, none preferred
    assert (np.ptp(scales) == 0) == (matrix_type in ("tq1_0", "tq2_0"))
    assert np.isfinite(scales).all()
    assert (scales > 0).all()


def test_a_seed_gives_the_same_file(write: Callable[..., None], tmp_path: Path):
    paths = [tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf")]
    for path, seed in zip(paths, ("3", "3", "4"), strict=True):
        write(path, "random", "--seed", seed)
    first, second, other = (path.read_bytes() for path in paths)
    assert first == second
    assert len(first) == len(other)
    assert first != other


def test_rows_that_do_not_fit_a_block_are_refused(write: Callable[..., None], tmp_path: Path):
    message = r"blk\.0\.attn_q\.weight: rows of 576 are not a multiple of the type's block of 256"
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        write(tmp_path / "x.gguf", "smollm2-135m", "--type", "tq2_0")
    assert not (tmp_path / "x.gguf").exists()
