"""One decoder block: from full-precision weights to quantized ones that answer alike.

1. One pass of the ternary stream through the block in full precision collects the second moments of
   every linear's int8 input, so the errors of earlier blocks are in them.
2. solve.py, or the linear's own quantizer (solving.py), chooses codes and scales of each linear.
3. refine.py tunes the block as a whole on the output.
Memory: the block in float32 four times (weights, gradient, Adam's two moments), the moments, and the
streams that the caller holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from bitnet_arch import bit_linears
from wf_ptq.layers import ScaledLinear, install
from wf_ptq.moments import input_moments
from wf_ptq.options import BlockOptions
from wf_ptq.solving import choose
from wf_ptq.streams import BlockRunner, check_streams, stream_error
from wf_ptq.ternary.refine import refine_block


@dataclass(frozen=True)
class BlockReport:
    """Relative squared errors: of each linear's output on its inputs (that of rounding and the solved
    one's) and of the stream after the block, before and after refinement."""

    naive: dict[str, float]
    solved: dict[str, float]
    stream_solved: float
    stream: float


@dataclass(frozen=True)
class TernaryMethod:
    """Chooses ternary codes and scales, or those of another quantizer that can (a `wf_ptq.walk.BlockMethod`).

    before_refining: called when a block is solved, so that the time of both parts can be told apart.
    """

    options: BlockOptions = field(default_factory=BlockOptions)
    before_refining: Callable[[], None] = lambda: None

    def quantize_block(
        self, run: BlockRunner, block: nn.Module, inputs: Tensor, targets: Tensor, seed: int
    ) -> BlockReport:
        """Replaces the master weights (and tunes gains and biases) of one block in place.

        Args:
            run: of the model that the block belongs to.
            block: its BitLinears hold full-precision weights in float32.
            inputs: quantized stream before the block [sequences, tokens, hidden], in the dtype to compute in.
            targets: full-precision stream after the block, the same shape and dtype.
            seed: of the refinement's batches.
        Raises:
            ValueError: streams of different shapes, values that are not finite, or linears whose codes
                nothing chooses.
        """
        check_streams(inputs, targets)
        linears, naive, solved = self._solve(run, block, inputs)
        install(block, linears)
        stream_solved = stream_error(run, block, inputs, targets)
        self.before_refining()
        refine_block(run, block, list(linears.values()), inputs, targets, self.options.refine, seed)
        stream = stream_error(run, block, inputs, targets)
        install(block, {name: linear.write_back() for name, linear in linears.items()})
        return BlockReport(naive, solved, stream_solved, stream)

    def _solve(
        self, run: BlockRunner, block: nn.Module, inputs: Tensor
    ) -> tuple[dict[str, ScaledLinear], dict[str, float], dict[str, float]]:
        """Stand-ins of the block's linears, solved one by one; relative errors of rounding and of them."""
        moments = input_moments(run, block, inputs[: self.options.num_moment_sequences])
        linears: dict[str, ScaledLinear] = {}
        naive: dict[str, float] = {}
        solved: dict[str, float] = {}
        for name, layer in bit_linears(block):
            linears[name], solution = choose(layer, moments[name], self.options.solve)
            naive[name], solved[name] = solution.naive_error, solution.error
        return linears, naive, solved
