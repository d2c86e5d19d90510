"""Conversion of a dense Hugging Face causal LM into a quantized one, in place.

Every linear of every decoder block becomes a BitLinear; embeddings, norms and head stay. With
`sub_norm`, SubLN goes before the attention output and the down projection (see sub_norm_fit.py).
In memory the model stays an instance of its stock transformers class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from bitnet_arch.families import SUB_NORM_SITES, block_linears, blocks, check_sub_norm, check_supported
from bitnet_arch.hf import WrinkleFreeConfig
from bitnet_arch.install import install_bit_linears
from bitnet_arch.linear import BitLinear
from bitnet_arch.quantizers import Quantizer, TernaryQuantizer
from bitnet_arch.sub_norm_fit import (
    DEFAULT_TOLERANCE,
    SiteFit,
    fit_sub_norms,
    make_sub_norm,
    naive_fit,
)


@dataclass(frozen=True)
class ConversionConfig:
    """What to convert to.

    Attributes:
        quantizer: of the block linears' weights.
        sub_norm: insert SubLN; by default where the quantizer needs it.
        floor_tolerance: relative squared error that a site's floor may cause (sub_norm_fit.py).
    """

    quantizer: Quantizer = field(default_factory=TernaryQuantizer)
    sub_norm: bool | None = None
    floor_tolerance: float = DEFAULT_TOLERANCE

    @property
    def has_sub_norm(self) -> bool:
        if self.sub_norm is None:
            return self.quantizer.needs_sub_norm
        return self.sub_norm


def convert(
    model: nn.Module,
    config: ConversionConfig,
    fit_ids: Tensor | None = None,
    *,
    naive: bool = False,
    on_site: Callable[[str], None] = lambda name: None,
) -> nn.Module:
    """Converts `model` in place and returns it, fully quantized (lambda 1).

    Args:
        model: a causal LM of a family that can be converted (`supported_families`).
        config: quantizer and SubLN.
        fit_ids: [sequences, tokens] token ids of ordinary text, a few thousand in all;
            needed with SubLN.
        naive: SubLN that is not fitted (gain 1, no floor), for comparison only.
        on_site: called with the name of each linear whose SubLN is fitted (progress).
    Raises:
        UnsupportedModelError: unknown architecture, or one without a place for SubLN.
        ValueError: already converted, no text to fit SubLN on, or rows that the quantizer does not fit.
    """
    check_supported(model.config)
    check_shapes(model, config.quantizer)
    eps = float(model.config.rms_norm_eps)  # type: ignore[union-attr, arg-type]
    sites: dict[str, SiteFit] = {}
    if config.has_sub_norm:
        check_sub_norm(model.config)
        sites = _sub_norm_sites(model, config, fit_ids, naive, eps, on_site)
    sub_norms = {
        name: make_sub_norm(site, eps, model.get_submodule(name).weight)  # type: ignore[arg-type]
        for name, site in sites.items()
    }
    install_bit_linears(model, config.quantizer, sub_norms)
    model.config.quantization_config = WrinkleFreeConfig(  # type: ignore[union-attr]
        scheme=config.quantizer.name,
        sub_norm=config.has_sub_norm,
        sub_norm_log2_floor={name: site.log2_floor for name, site in sites.items()},
    )
    return model


def check_shapes(model: nn.Module, quantizer: Quantizer) -> None:
    """Raises ValueError for a linear that is converted already, or whose rows the quantizer does not fit."""
    for block_name, block in blocks(model):
        for name in block_linears(model):
            linear = block.get_submodule(name)
            if isinstance(linear, BitLinear):
                raise ValueError(f"{block_name}.{name} is a BitLinear already: convert the dense model")
            try:
                quantizer.check_shape(linear.out_features, linear.in_features)  # type: ignore[arg-type]
            except ValueError as error:
                raise ValueError(f"{block_name}.{name}: {error}") from error


def _sub_norm_sites(
    model: nn.Module,
    config: ConversionConfig,
    fit_ids: Tensor | None,
    naive: bool,
    eps: float,
    on_site: Callable[[str], None],
) -> dict[str, SiteFit]:
    if naive:
        return {
            f"{block_name}.{site.consumer}": naive_fit(
                block.get_submodule(site.consumer).in_features  # type: ignore[arg-type]
            )
            for block_name, block in blocks(model)
            for site in SUB_NORM_SITES
        }
    if fit_ids is None:
        raise ValueError("SubLN needs fit_ids: token ids of a few thousand tokens of ordinary text")
    was_training = model.training
    model.eval()
    try:
        return fit_sub_norms(model, fit_ids, eps, config.floor_tolerance, on_site)
    finally:
        model.train(was_training)
