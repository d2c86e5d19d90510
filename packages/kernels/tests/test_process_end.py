"""Processes that end while kernels run or workers are awake, and children of fork after kernels have run.

Each script runs in an interpreter of its own; what must not happen is a signal or a wait without end.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

LINEAR = """
import numpy as np
import ternary_kernels as tk
codes = np.random.default_rng(0).integers(-1, 2, (512, 512)).astype(np.int8)
x = np.ones((32, 512), np.float32)
matrix = tk.pack_ternary(codes, np.float32(1), "t2", num_threads=4)
def compute(num_threads=4):
    return matrix.linear(x, "int8", num_threads)
"""
ROWS = """
import numpy as np
from ternary_kernels import _native
x = np.ones((512, 1024), np.float32)
codes, inverse = np.empty(x.shape, np.int8), np.empty(len(x), np.float32)
def compute(num_threads=4):
    addresses = codes.ctypes.data, inverse.ctypes.data
    _native.quantize_rows(num_threads, x.ctypes.data, False, *x.shape, 1e-5, False, 0, *addresses)
    return codes
"""
DECODER = """
import sys
import numpy as np
import ternary_kernels as tk
from ternary_kernels.loading import load_model
decoder = tk.Decoder(load_model(sys.argv[1]), num_pages=1, num_threads=4)
def compute(num_threads=4):
    arrays = (np.array(values, np.int32) for values in ([5, 6, 7], [0, 3], [0], [[0]], [2]))
    return decoder.forward(*arrays)
"""
PYTORCH = """
import torch
from ternary_kernels.training.rows import quantize_rows
x = torch.ones(512, 1024)
def compute(num_threads=4):
    torch.set_num_threads(num_threads)
    return quantize_rows(x, 1e-5)[0].numpy()
"""
IN_A_THREAD = """
import threading
begun = threading.Event()
def repeat():
    while True:
        compute()
        begun.set()
def begin():
    threading.Thread(target=repeat, daemon=True).start()
    begun.wait()
"""
IN_CHILDREN = """
import os, signal, sys
expected = compute().copy()
def in_child(work):
    process = os.fork()
    if process == 0:
        signal.alarm(60)  # ends one that waits for ever
        work()
        sys.exit(0)  # as a program ends: objects are freed, static ones destroyed
    status = os.waitpid(process, 0)[1]
    assert status == 0, f"signal {os.WTERMSIG(status)}, exit code {os.WEXITSTATUS(status)}"
def compare(num_threads=4):
    assert (compute(num_threads) == expected).all()
"""


def run(*parts: str, arguments: tuple[object, ...] = ()) -> None:
    """The parts as one program."""
    command = [sys.executable, "-c", "\n".join(parts), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, f"{result.returncode}: {result.stderr[-2000:]}"


@pytest.mark.parametrize("kernel", [LINEAR, ROWS], ids=["linear", "rows"])
def test_a_process_ends_while_a_thread_computes(kernel: str) -> None:
    for _ in range(3):
        run(kernel, IN_A_THREAD, "begin()")


@pytest.mark.parametrize("kernel", [LINEAR, ROWS], ids=["linear", "rows"])
def test_children_of_fork_compute_with_workers_of_their_own_and_end(kernel: str) -> None:
    run(
        kernel,
        IN_CHILDREN,
        "for _ in range(20):",
        "    in_child(lambda: None)",
        "    in_child(compare)",
        "    in_child(lambda: compare(3))",
        "compare()",
    )


def test_too_many_threads_are_refused_and_fewer_still_compute() -> None:
    run(
        LINEAR,
        "import resource",
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()",
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))",
        "try:",
        "    compute(5000)  # each with a stack of megabytes",
        "except RuntimeError as error:",
        "    assert 'not 4999' in str(error) and 'give a smaller num_threads' in str(error), error",
        "else:",
        "    raise AssertionError('5000 threads in 256 MiB')",
        "compute(3)",
    )


def test_children_of_a_busy_parent_do_not_wait_for_its_thread() -> None:
    run(LINEAR, IN_CHILDREN, IN_A_THREAD, "begin()", "for _ in range(20):", "    in_child(compare)")


def test_children_use_and_leave_a_decoder_of_their_parent(tmp_path: Path) -> None:
    model = tmp_path / "random.gguf"
    subprocess.run([sys.executable, BENCHMARKS / "random_model.py", "random", "--output", model], check=True)
    children = ("for _ in range(10):", "    in_child(lambda: None)", "    in_child(compare)", "compare()")
    run(DECODER, IN_CHILDREN, *children, arguments=(model,))


def test_children_do_not_wait_for_pytorchs_threads_of_their_parent() -> None:
    """PyTorch's own operators do."""
    run(PYTORCH, IN_CHILDREN, "in_child(compare)", "compare()")
