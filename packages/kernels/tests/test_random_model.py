"""Files of benchmarks/random_model.py: valid, ternary, the same for a seed, loaded by our reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ternary_kernels.loading import load_model

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "random_model.py"


def write(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments, "--output", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("matrix_type", "embeddings"), [("tq1_0", "f16"), ("tq2_0", "q6_k"), ("q2_0", "q4_0"), ("q4_0", "q8_0")]
)
def test_a_file_is_a_ternary_model(matrix_type: str, embeddings: str, tmp_path: Path):
    path = tmp_path / "random.gguf"
    done = write(path, "random", "--type", matrix_type, "--embeddings", embeddings)
    assert done.returncode == 0, done.stderr
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


def test_a_seed_gives_the_same_file(tmp_path: Path):
    paths = [tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf")]
    for path, seed in zip(paths, ("3", "3", "4"), strict=True):
        assert write(path, "random", "--seed", seed).returncode == 0
    first, second, other = (path.read_bytes() for path in paths)
    assert first == second
    assert len(first) == len(other)
    assert first != other


def test_rows_that_do_not_fit_a_block_are_refused(tmp_path: Path):
    done = write(tmp_path / "x.gguf", "smollm2-135m", "--type", "tq2_0")
    assert done.returncode == 1
    assert "blk.0.attn_q.weight: rows of 576 are not a multiple of the type's block of 256" in done.stderr
    assert not (tmp_path / "x.gguf").exists()
