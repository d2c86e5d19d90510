"""The roofline benchmark runs, checks its kernels, and reports shares of measured limits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ternary_kernels import _native

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "roofline.py"


def run(*arguments: str) -> dict:
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_small_sizes_give_a_whole_report():
    report = run("--shrink", "128", "--megabytes", "1", "--repeats", "2", "--threads", "1")
    assert report["limits"]["memory_per_s"] > 1e9
    names = {kernel["kernel"] for kernel in report["kernels"]}
    assert {"ternary t2", "ternary t5", "head q8", "head q6", "head q4"} <= names
    assert {"attention f16", "attention int8", "rms_norm", "rope", "silu_gate", "quantize"} <= names
    for kernel in report["kernels"]:
        assert kernel["median_us"] > 0
        assert kernel["share"] == max(kernel["bandwidth_share"], kernel["peak_share"]) > 0
    assert {"cpu", "cores"} <= report["hardware"].keys()
    assert report["commit"]


def test_what_cannot_be_measured_is_refused():
    x = np.zeros((2, 8), np.float32)
    refused = {
        "unknown kernel 'sort'; known: rms_norm": lambda: _native.time_rows("sort", x, x),
        "y has 16 values, rms_norm needs 8": lambda: _native.time_rows("rms_norm", x, x),
        "kind 'int4' is neither int8 nor float32": lambda: _native.measure_peak("int4"),
        "bytes is 0, not positive": lambda: _native.measure_bandwidth(100),
        "repeats is 0, not positive": lambda: _native.measure_bandwidth(1 << 16, repeats=0),
        "no matrix given": lambda: _native.time_products([], x),
        "keys and values must be": lambda: _native.time_attention(
            x.reshape(1, 2, 8), x.reshape(1, 2, 8), x.reshape(2, 1, 8)
        ),
        "queries .at most tokens, ": lambda: _native.time_attention(*[x.reshape(-1, 1, 8)] * 2, x[:1, None]),
        "a window of -1 tokens": lambda: _native.time_attention(*[x[:, None]] * 3, window=-1),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()
