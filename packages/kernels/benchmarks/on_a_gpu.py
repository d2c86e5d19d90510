"""What the benchmarks beside it share that run on a GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch


def print_measured(measure: Callable[..., dict[str, Any]], *options: Any) -> None:
    """JSON of what `measure(*options)` finds; ends with 2 where there is no GPU."""
    if not torch.cuda.is_available():
        print("error: PyTorch finds no GPU; this benchmark needs one with CUDA", file=sys.stderr)
        raise SystemExit(2)
    print(json.dumps(measure(*options), indent=2))
