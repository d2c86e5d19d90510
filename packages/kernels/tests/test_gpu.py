"""Triton kernels under the interpreter, on a GPU where one is at hand, and compiled for one that is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA")

HERE = Path(__file__).parent


def run_cases(**environment: str) -> None:
    files = [HERE / "gpu_cases.py", HERE / "gpu_model_cases.py"]
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
    assert "s32.s8.s8" in kernels["_group_product"]


def test_the_benchmark_says_that_it_needs_a_gpu() -> None:
    script = HERE.parent / "benchmarks" / "training_gpu.py"
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, script], env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: PyTorch finds no GPU; this benchmark needs one with CUDA\n"
    assert not done.stdout
