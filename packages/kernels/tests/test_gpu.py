"""Triton kernels under the interpreter, on a GPU where one is at hand, and compiled for one that is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA")

HERE = Path(__file__).parent


def run_cases(**environment: str) -> None:
    files = [HERE / f"gpu_{part}.py" for part in ("cases", "model_cases", "served_cases")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, cwd=HERE, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_kernels_under_the_interpreter() -> None:
    run_cases(TRITON_INTERPRET="1")


@pytest.mark.gpu
def test_kernels_on_a_gpu() -> None:
    run_cases(TRITON_INTERPRET="0")


def test_kernels_compile_for_tensor_cores(tmp_path: Path) -> None:
    """Without a GPU: to the machine code of one."""
    done = subprocess.run(
        [sys.executable, HERE / "compile_for_gpu.py"],
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kernels = {line.split(" ")[0]: line for line in done.stdout.splitlines()}
    expected = {"_dequantize_rows", "_quantize_rows", "_quantize_columns", "_norm_backward", "_turn"}
    assert {*expected, "_divergence"} < kernels.keys()
    for product in ("_group_product", "_many"):
        assert "s32.s8.s8" in kernels[product]
    assert "dp4a.s32.s32" in kernels["_few"]


@pytest.mark.parametrize("script", ["training_gpu.py", "decode_gpu.py"])
def test_the_benchmark_says_that_it_needs_a_gpu(script: str) -> None:
    path = HERE.parent / "benchmarks" / script
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, path], env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: PyTorch finds no GPU; this benchmark needs one with CUDA\n"
    assert not done.stdout
