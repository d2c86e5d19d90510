"""One decoder block: weights that lose less when they are rounded to 4 bits.

1. One pass of the quantized stream through the block in full precision sums up the inputs of its linears;
   another one records the calls of attention and feed-forward part.
2. Per site (sites.py) the scales of the input are searched and folded.
3. Per linear the ranges of its groups are searched, and weights cut off there.
The block's function in full precision is the same until 3; what its weights round to is what was searched.
Cost: with n exponents n passes of the search's sequences through the block. Memory: the moments of four
inputs, and those sequences' inputs and outputs of attention and feed-forward part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bitnet_arch import BitLinear, BitLinearLRC, Int4Quantizer, bit_linears
from wf_ptq.awq.search import ChosenScales, choose_scales, clip, linear_error
from wf_ptq.awq.sites import Site, clipped_rows, fold, sites_of
from wf_ptq.awq.statistics import Calls, InputStatistics, input_statistics, recorded_calls
from wf_ptq.moments import full_precision
from wf_ptq.options import AwqOptions
from wf_ptq.streams import BlockRunner, check_streams, stream_error


@dataclass(frozen=True)
class AwqReport:
    """exponents of the scales by site; relative squared errors of each site's output, rounded to nearest and
    with the scales; the share of each linear's weights that are cut off; and the errors of the stream after
    the block, rounded to nearest and in the end."""

    exponents: dict[str, float]
    rounded: dict[str, float]
    scaled: dict[str, float]
    cut_off: dict[str, float]
    stream_rounded: float
    stream: float


@dataclass(frozen=True)
class AwqMethod:
    """Chooses scales and ranges of the blocks of a model (a `wf_ptq.walk.BlockMethod`)."""

    sites: tuple[Site, ...]
    clipped_rows: dict[str, slice]
    options: AwqOptions = field(default_factory=AwqOptions)

    @classmethod
    def of(cls, model: Any, options: AwqOptions | None = None) -> AwqMethod:
        """Args: model is converted to a scheme of 4 bits. Raises: ValueError, as `sites_of`."""
        return cls(sites_of(model), clipped_rows(model), options or AwqOptions())

    @torch.no_grad()
    def quantize_block(
        self, run: BlockRunner, block: nn.Module, inputs: Tensor, targets: Tensor, seed: int
    ) -> AwqReport:
        """Changes weights, biases and gains of one block in place.

        Args:
            inputs: quantized stream before the block [sequences, tokens, hidden].
            targets: full-precision stream after it, for the report.
            seed: not used, nothing is random.
        Raises:
            ValueError: streams of different shapes, values that are not finite, or linears of a block that
                another method is for.
        """
        check_streams(inputs, targets)
        layers = {name: _checked(layer) for name, layer in bit_linears(block)}
        stream_rounded = stream_error(run, block, inputs, targets)
        statistics = input_statistics(run, block, inputs)
        chosen: dict[str, ChosenScales] = {}
        with full_precision(block):
            whole = {site.inspected for site in self.sites} - layers.keys()
            calls = recorded_calls(run, block, whole, inputs[: self.options.num_search_sequences])
            for site in self.sites:
                chosen[site.name] = self._scale(block, site, layers, statistics, calls)
        cut_off = {name: self._cut(layers[name], name, statistics[name]) for name in self.clipped_rows}
        return AwqReport(
            exponents={name: scales.exponent for name, scales in chosen.items()},
            rounded={name: scales.rounded_error for name, scales in chosen.items()},
            scaled={name: scales.error for name, scales in chosen.items()},
            cut_off=cut_off,
            stream_rounded=stream_rounded,
            stream=stream_error(run, block, inputs, targets),
        )

    def _scale(
        self,
        block: nn.Module,
        site: Site,
        layers: dict[str, BitLinear],
        statistics: dict[str, InputStatistics],
        calls: dict[str, Calls],
    ) -> ChosenScales:
        """Searches and folds the scales of a site, of which `statistics` are told."""
        consumers = {name: layers[name] for name in site.consumers}
        found = statistics[site.consumers[0]]
        if site.inspected in calls:
            error = calls[site.inspected].error
        else:
            error = linear_error(consumers[site.inspected], found.moment)
        chosen = choose_scales(consumers, found.magnitude, self.options.num_exponents, error)
        fold(block, site, chosen.scales)
        statistics |= dict.fromkeys(site.consumers, found.divided(chosen.scales))
        return chosen

    def _cut(self, layer: BitLinear, name: str, found: InputStatistics) -> float:
        """Cuts off what is better cut off; returns the share of the weights."""
        quantizer, rows = layer.quantizer, layer.weight[self.clipped_rows[name]]
        assert isinstance(quantizer, Int4Quantizer)
        cut = clip(rows, found.moment, quantizer, quantizer.group_size, self.options.num_clips)
        share = (cut != rows).float().mean().item()
        rows.copy_(cut)
        return share


def _checked(layer: BitLinear) -> BitLinear:
    if isinstance(layer, BitLinearLRC):
        raise ValueError(
            f"its linears have a low-rank correction (rank {layer.rank}) of other codes: start from the "
            "dense model"
        )
    if not isinstance(layer.quantizer, Int4Quantizer):
        raise ValueError(f"weights of scheme {layer.quantizer} are not of 4 bits: another method is for them")
    return layer
