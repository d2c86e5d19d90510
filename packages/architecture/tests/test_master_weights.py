"""Master weights made for given codes and scales: quantized again, on any machine, they give them back."""

import numpy as np
import pytest
import torch

from bitnet_arch import (
    ConversionConfig,
    Quantizer,
    TernaryQuantizer,
    bit_linears,
    convert,
    load_checkpoint,
    quantizer,
    save_checkpoint,
)
from bitnet_arch.rounding import MIN_SCALE
from wf_formats.matrix import QuantizedMatrix

SCHEMES = ["tensor", "group64", "group128"]
GROUP_SCHEMES = ["group64", "group128"]
IDS = torch.randint(0, 512, (8, 96), generator=torch.Generator().manual_seed(5))


def master_weights(
    codes: torch.Tensor, scales: torch.Tensor, latent: torch.Tensor, quantizer: Quantizer
) -> torch.Tensor:
    return quantizer.master_weights(QuantizedMatrix(codes, scales), latent)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_codes(shape: tuple[int, int], density: float, seed: int) -> torch.Tensor:
    signs = torch.randint(0, 2, shape, generator=generator(seed)) * 2 - 1
    return (signs * (torch.rand(shape, generator=generator(seed + 1)) < density)).to(torch.int8)


def random_scales(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """1e-4 .. 30, uniform in the logarithm."""
    exponents = torch.rand(shape, generator=generator(seed)) * (np.log10(30) + 4) - 4
    return TernaryQuantizer(64).storable(10**exponents)


def scales_for(scheme: str, shape: tuple[int, int], seed: int) -> torch.Tensor:
    return random_scales(() if scheme == "tensor" else (shape[0], shape[1] // int(scheme[5:])), seed)


def assert_quantizes_to(weight: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, scheme: str) -> None:
    found = quantizer(scheme).quantize(weight)
    assert torch.equal(found.codes, codes)
    used = (codes.reshape(*scales.shape, -1) != 0).any(-1)
    tolerance = 1e-6 if scheme == "tensor" else 0.0
    torch.testing.assert_close(found.scales[used], scales[used], rtol=tolerance, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("density", [0.02, 0.6, 1.0])
@pytest.mark.parametrize("latent_size", [0.0, 1e-4, 1.0, 10.0, 1e4])
def test_quantizing_again_gives_codes_and_scales(scheme: str, density: float, latent_size: float) -> None:
    """Whatever the latent weights are: of the scales' size, smaller or larger."""
    shape = (96, 512)
    for seed in range(3):
        codes, scales = random_codes(shape, density, seed), scales_for(scheme, shape, seed)
        latent = torch.randn(shape, generator=generator(seed + 9)) * latent_size * scales.mean()
        weight = master_weights(codes, scales, latent, quantizer(scheme))
        assert weight.dtype == torch.float32
        assert_quantizes_to(weight, codes, scales, scheme)


@pytest.mark.parametrize("scheme", GROUP_SCHEMES)
def test_groups_of_zeros_of_no_zero_and_with_one_weight(scheme: str) -> None:
    codes = torch.zeros(4, 256, dtype=torch.int8)
    codes[1] = random_codes((1, 256), 1.0, 3)
    codes[2, 5::64] = -1
    codes[3, ::64] = 1
    scales = scales_for(scheme, (4, 256), 4)
    for latent in (torch.zeros(4, 256), torch.randn(4, 256, generator=generator(5))):
        weight = master_weights(codes, scales, latent, quantizer(scheme))
        assert_quantizes_to(weight, codes, scales, scheme)
        assert not weight[0].any()
        found = quantizer(scheme).quantize(weight).scales
        torch.testing.assert_close(found[0], torch.full_like(found[0], MIN_SCALE))


@pytest.mark.parametrize("num_nonzero", [1, 64 * 8])
def test_a_matrix_of_no_zero_and_with_one_weight(num_nonzero: int) -> None:
    codes = torch.zeros(64 * 8, dtype=torch.int8)
    codes[:num_nonzero] = 1
    codes, scale = codes.view(8, 64), torch.tensor(0.02)
    weight = master_weights(codes, scale, torch.randn(8, 64, generator=generator(1)), TernaryQuantizer())
    assert_quantizes_to(weight, codes, scale, "tensor")


def test_a_matrix_of_zeros() -> None:
    codes = torch.zeros(8, 64, dtype=torch.int8)
    assert not master_weights(codes, torch.tensor(0.02), torch.randn(8, 64), TernaryQuantizer()).any()


@pytest.mark.parametrize("scheme", GROUP_SCHEMES)
@pytest.mark.parametrize("size", [1e-4, 0.013, 30.0])
def test_sums_are_exact_in_any_order(scheme: str, size: float) -> None:
    """Float32 sums one weight at a time (numpy) and of shuffled groups: the mean is the scale to the bit."""
    group = int(scheme[5:])
    scales = TernaryQuantizer(64).storable(size * (1 + torch.rand(40, 1, generator=generator(1))))
    codes = random_codes((40, group), 0.7, 2)
    latent = torch.randn(40, group, generator=generator(3)) * size
    weight = master_weights(codes, scales, latent, quantizer(scheme))
    halves = scales.half().numpy().astype(np.float64)  # the reciprocals in ternary.py are not part of the sum
    for seed in range(5):
        shuffled = weight[:, torch.randperm(group, generator=generator(seed))]
        one_by_one = np.cumsum(shuffled.abs().numpy(), axis=1, dtype=np.float32)[:, -1:]
        np.testing.assert_array_equal(one_by_one.astype(np.float64), halves * group)
        found = quantizer(scheme).quantize(shuffled.contiguous()).scales
        assert torch.equal(found, scales)


@pytest.mark.parametrize("scheme", GROUP_SCHEMES)
def test_scales_hold_in_float16_and_are_stored_unchanged(scheme: str) -> None:
    raw = 10 ** (torch.rand(500, generator=generator(1)) * 6 - 4)
    scales = TernaryQuantizer(64).storable(raw)
    torch.testing.assert_close(scales, raw, rtol=2**-11, atol=0)
    torch.testing.assert_close(scales.half().float(), scales, rtol=2**-22, atol=0)
    assert torch.equal(TernaryQuantizer(64).storable(scales), scales)
    assert TernaryQuantizer(64).storable(torch.tensor([0.0, -1.0])).min() >= MIN_SCALE


@pytest.mark.parametrize("scheme", SCHEMES)
def test_latent_weights_that_fit_hardly_move(scheme: str) -> None:
    """A threshold margin of 0.02 scales and the rounding of the scale (2^-11) are all that moves them."""
    parsed = quantizer(scheme)
    latent = torch.randn(64, 256, generator=generator(1)) * 0.03
    rounded = parsed.quantize(latent)
    codes, scales = rounded.codes, parsed.storable(rounded.scales)
    weight = master_weights(codes, scales, latent, parsed)
    per_scale = (weight - latent).view(*scales.shape, -1) / scales.unsqueeze(-1)
    assert per_scale.abs().max() < 0.025
    assert per_scale.square().mean().sqrt() < 0.004
    again = master_weights(codes, scales, weight, parsed)
    torch.testing.assert_close(again, weight, rtol=0, atol=1e-4 * scales.max().item())


@pytest.mark.parametrize(
    ("scheme", "scale"),
    [
        ("group64", 0.1),  # more bits than float16 has
        ("group64", 1e5),  # beyond float16
        *((scheme, scale) for scheme in ("tensor", "group64") for scale in (0.0, -1.0, 1e-6, np.nan, np.inf)),
    ],
)
def test_impossible_scales_are_refused(scheme: str, scale: float) -> None:
    shape = () if scheme == "tensor" else (2, 1)
    with pytest.raises(ValueError, match="no weights quantize to these codes and scales"):
        master_weights(
            torch.ones(2, 64, dtype=torch.int8),
            torch.full(shape, scale),
            torch.randn(2, 64, generator=generator(1)),
            quantizer(scheme),
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_checkpoints_keep_codes_and_scales(tiny_llama, scheme: str, tmp_path) -> None:
    """Also where a folder holds weights divided by a SubLN floor (tensor)."""
    parsed = quantizer(scheme)
    model = convert(tiny_llama(), ConversionConfig(parsed), IDS)
    if scheme == "tensor":
        model.model.layers[1].mlp.down_proj.sub_norm.log2_floor = 3
        model.config.quantization_config.sub_norm_log2_floor["model.layers.1.mlp.down_proj"] = 3
    chosen = {}
    for index, (name, layer) in enumerate(bit_linears(model)):
        shape = tuple(layer.weight.shape)
        codes, scales = random_codes(shape, 0.6, index), scales_for(scheme, shape, index)
        latent = torch.randn(shape, generator=generator(index)) * scales.mean()
        layer.weight.data = master_weights(codes, scales, latent, parsed)
        chosen[name] = parsed.quantize(layer.weight)
        assert torch.equal(chosen[name].codes, codes)
    save_checkpoint(model, None, tmp_path / "checkpoint", {})
    loaded = dict(bit_linears(load_checkpoint(tmp_path / "checkpoint").model))
    assert loaded.keys() == chosen.keys()
    for name, expected in chosen.items():
        found = parsed.quantize(loaded[name].weight)
        assert torch.equal(found.codes, expected.codes), name
        assert torch.equal(found.scales, expected.scales), name
