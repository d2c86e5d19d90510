"""Training kernels on the threads that PyTorch runs its own operators on.

Two pools of threads would fight for the cores: the workers of each spin for a while when they are done.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from ternary_kernels import _native


def _borrow_openmp() -> bool:
    """Runs loops on the threads of PyTorch's copy of GCC's OpenMP runtime; False where it uses another."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        parallel = getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None)
        if parallel is not None:
            _native.borrow_openmp(ctypes.cast(parallel, ctypes.c_void_p).value or 0)
            return True
    return False


SHARES_THREADS = _borrow_openmp()
"""Whether the kernels run on PyTorch's own threads."""


def describe() -> str:
    """One line: what computes, and on which threads."""
    threads = "PyTorch's threads" if SHARES_THREADS else "threads of their own (PyTorch has another OpenMP)"
    return f"ternary_kernels, {_native.info()['isa']}, on {threads}"
