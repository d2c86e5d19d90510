"""Ternary codes and scales chosen on text, block by block, instead of rounded.

Rounding a model to absmean codes destroys it. Here every block is solved so that its output on
calibration text stays close to that of the full-precision model:
1. solve.py: per linear, error compensation and coordinate descent on the layer's squared output error;
2. refine.py: per block, a short optimisation by gradients on the block's squared output error;
3. distil.py: over all blocks, scales and gains alone towards the full-precision model's predictions.
block.py puts 1 and 2 together for one block. The caller walks through the model with two streams of
hidden states (streams.py), the full-precision model's and the ternary one's.

The options (options.py) are there without PyTorch; all other names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wf_ptq.options import BlockOptions, DistilOptions, Rates, RefineOptions, SolveOptions

if TYPE_CHECKING:
    from wf_ptq.block import BlockReport, ternarize_block
    from wf_ptq.distil import Distiller
    from wf_ptq.layers import computing_in
    from wf_ptq.solve import output_error, solve_linear
    from wf_ptq.streams import BlockRunner, faster_dtype

__all__ = [
    "BlockOptions",
    "BlockReport",
    "BlockRunner",
    "DistilOptions",
    "Distiller",
    "Rates",
    "RefineOptions",
    "SolveOptions",
    "computing_in",
    "faster_dtype",
    "output_error",
    "solve_linear",
    "ternarize_block",
]

_HOMES = {
    "BlockReport": "block",
    "BlockRunner": "streams",
    "Distiller": "distil",
    "computing_in": "layers",
    "faster_dtype": "streams",
    "output_error": "solve",
    "solve_linear": "solve",
    "ternarize_block": "block",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"wf_ptq.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
