"""Post-training quantization: codes and scales chosen on text, block by block, instead of rounded.

Rounding a model to ternary codes destroys it. Here every block is changed so that its output on
calibration text stays close to that of the full-precision model:
1. walk.py: through the blocks with two streams of hidden states (streams.py), whatever the method;
2. ternary/: the method for ternary weights. Per linear error compensation and coordinate descent on the
   squared output error (solve.py), then per block a short optimisation by gradients (refine.py);
3. low_rank/: what the quantized linears of finished blocks lack, as low-rank corrections in closed form;
4. awq/: the method for 4 bits. Inputs are scaled by what they weigh, and ranges of weights cut;
5. distil.py: over all blocks, scales, gains and embeddings towards the full-precision model's predictions.
Another method is another `BlockMethod` in a file of its own.

The options (options.py) are there without PyTorch; all other names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wf_formats.lazy import lazy_names
from wf_ptq.options import (
    AwqOptions,
    BlockOptions,
    DistilOptions,
    LowRankOptions,
    Rates,
    RefineOptions,
    SolveOptions,
)

if TYPE_CHECKING:
    from wf_ptq.awq.block import AwqMethod, AwqReport
    from wf_ptq.distil import Distiller
    from wf_ptq.low_rank.block import LowRankMethod, LowRankReport
    from wf_ptq.streams import BlockRunner
    from wf_ptq.ternary.block import BlockReport, TernaryMethod
    from wf_ptq.walk import BlockError, BlockMethod, BlockStore, take_block, walk_blocks

__all__ = [
    "AwqMethod",
    "AwqOptions",
    "AwqReport",
    "BlockError",
    "BlockMethod",
    "BlockOptions",
    "BlockReport",
    "BlockRunner",
    "BlockStore",
    "DistilOptions",
    "Distiller",
    "LowRankMethod",
    "LowRankOptions",
    "LowRankReport",
    "Rates",
    "RefineOptions",
    "SolveOptions",
    "TernaryMethod",
    "take_block",
    "walk_blocks",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AwqMethod": "awq.block",
        "AwqReport": "awq.block",
        "BlockError": "walk",
        "BlockMethod": "walk",
        "BlockReport": "ternary.block",
        "BlockRunner": "streams",
        "BlockStore": "walk",
        "Distiller": "distil",
        "LowRankMethod": "low_rank.block",
        "LowRankReport": "low_rank.block",
        "TernaryMethod": "ternary.block",
        "take_block": "walk",
        "walk_blocks": "walk",
    },
)
