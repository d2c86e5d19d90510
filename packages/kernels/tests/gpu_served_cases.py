"""Packed ternary products in Triton against exact sums and against the CPU's layer.

test_gpu.py runs this file in a process of its own: Triton's interpreter is chosen before Triton is imported.
"""

import pytest
import torch
from torch import Tensor

from ternary_kernels import gpu
from ternary_kernels.gpu import packed_products
from ternary_kernels.gpu.launch import DEVICE
from ternary_kernels.gpu.linear import GpuLinear, check_device
from ternary_kernels.gpu.packed_products import packed_product
from ternary_kernels.gpu.packing import PackedMatrix, pack_for_gpu
from ternary_kernels.torch_ops import PackedLinear
from wf_formats.errors import LoadError

ON = torch.device(DEVICE)


def codes_and_scales(rows: int, cols: int, group: int | None) -> tuple[Tensor, Tensor]:
    """A scale for each row where group is 0, for the matrix where it is None; all exact in float16."""
    chance = torch.Generator().manual_seed(rows)
    codes = torch.randint(-1, 2, (rows, cols), dtype=torch.int8, generator=chance)
    shape = () if group is None else (rows, cols // group) if group else (rows,)
    return codes, torch.randint(1, 2048, shape, generator=chance) / 4096.0


def tokens_of(count: int, cols: int) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(count)
    x = torch.randint(-128, 128, (count, cols), dtype=torch.int8, generator=chance)
    return x, torch.rand(count, 1, generator=chance) + 1


def product(x: Tensor, inverse: Tensor, matrix: PackedMatrix, dtype: torch.dtype) -> Tensor:
    return packed_product(x.to(ON), inverse.to(ON), matrix.to(ON), dtype).cpu()


def sums(x: Tensor, codes: Tensor) -> Tensor:
    return (x.long() @ codes.long().T).float()


@pytest.mark.parametrize("most_programs", [1, 512])
@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_sums_of_a_row_are_exact(tokens: int, most_programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens and many; inputs that end within a unit; in one part and in several."""
    monkeypatch.setattr(packed_products, "_PROGRAMS", most_programs)
    codes, scales = codes_and_scales(19, 1100, 0)
    x, _ = tokens_of(tokens, 1100)
    inverse = torch.ones(tokens, 1)
    found = product(x, inverse, pack_for_gpu(codes, scales), torch.float32)
    assert torch.equal(found, sums(x, codes) * scales)


@pytest.mark.parametrize(
    ("group", "tokens", "dtype"),
    [
        (32, 1, torch.float32),
        (64, 5, torch.float16),
        (64, 17, torch.float32),
        (128, 2, torch.bfloat16),
        (128, 70, torch.float16),
        (32, 17, torch.bfloat16),
    ],
)
def test_groups_have_their_own_scales(group: int, tokens: int, dtype: torch.dtype) -> None:
    codes, scales = codes_and_scales(20, 128 + group, group)
    x, inverse = tokens_of(tokens, codes.shape[1])
    weight = (codes.view(20, -1, group).double() * scales.double()[..., None]).view(codes.shape)
    exact = x.double() / inverse.double() @ weight.T
    found = product(x, inverse, pack_for_gpu(codes, scales), dtype)
    assert found.dtype is dtype
    tolerance = 1e-6 if dtype is torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=tolerance * exact.abs().max().item())


@pytest.mark.parametrize("group", [None, 64])
def test_a_layer_computes_what_the_cpus_does(group: int | None) -> None:
    """The CPU divides 127 by max|x|, training multiplies by 1 / max|x|: codes differ in rare ties."""
    codes, scales = codes_and_scales(16, 192, group)
    layer = GpuLinear.from_ternary(codes, scales, ON)
    x = torch.randint(-127, 128, (2, 1, 192), generator=torch.Generator().manual_seed(1)).float()
    x[..., 0] = 127  # so that rounding to int8 changes nothing
    expected = PackedLinear.from_ternary(codes, scales)(x)
    torch.testing.assert_close(layer(x.to(ON)).cpu(), expected, rtol=1e-6, atol=1e-3)
    half = layer(x.to(ON, torch.float16)).cpu()
    torch.testing.assert_close(half.float(), expected, rtol=2**-10, atol=0.05)
    assert {name for name, _ in layer.named_buffers()} == {"data", "row_scales", "group_scales"}
    assert layer.data.numel() == 16 * 64, "2 bits for each weight of whole units"


def test_what_is_not_finite_makes_nan_of_its_token_alone() -> None:
    layer = GpuLinear.from_ternary(*codes_and_scales(8, 128, 64), ON)
    x = torch.ones(3, 128)
    x[1, 5] = torch.inf
    y = layer(x.to(ON)).cpu()
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()
    assert layer(x[:0].to(ON)).shape == (0, 8)


def test_small_scales_keep_eleven_bits() -> None:
    """float16 alone would lose them: its least normal number is 6e-5."""
    codes, scales = codes_and_scales(6, 128, 64)
    matrix = pack_for_gpu(codes, scales * 2.0**-30)
    kept = matrix.row_scales[:, None] * matrix.group_scales.float()
    torch.testing.assert_close(kept, scales * 2.0**-30, rtol=2**-11, atol=0)
    zero = pack_for_gpu(codes, scales * 0)
    assert not zero.group_scales.any()


def test_what_the_kernels_do_not_take_is_refused() -> None:
    codes, scales = codes_and_scales(4, 192, 96)
    with pytest.raises(LoadError, match=r"a scale for 96 inputs; the GPU kernels take groups of 32, 64, 128"):
        pack_for_gpu(codes, scales)
    with pytest.raises(LoadError, match=r"a scale for 32\.8 inputs"):
        pack_for_gpu(codes[:, :164], scales[:, :1].expand(4, 5))
    with pytest.raises(LoadError, match="190 inputs do not divide into fours"):
        pack_for_gpu(codes[:, :190].contiguous(), scales[:, 0])
    with pytest.raises(LoadError, match=r"in Triton run on .* here, not on meta"):
        check_device(torch.device("meta"))
    matrix = pack_for_gpu(*codes_and_scales(4, 128, 64))
    x, inverse = tokens_of(1, 128)
    with pytest.raises(ValueError, match=r"x is torch.float32, not torch.int8"):
        product(x.float(), inverse, matrix, torch.float32)


@pytest.mark.parametrize(
    ("hip", "capability", "message"),
    [
        (None, (7, 0), r"Tesla V100 has compute capability 7.0, the ternary kernels need 8.0 or newer"),
        ("6.2", (9, 4), "Tesla V100: the ternary kernels are for NVIDIA's GPUs"),
        (None, (9, 0), None),
    ],
)
def test_a_gpu_that_is_too_old_is_refused_by_name(
    hip: str | None, capability: tuple[int, int], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ternary_kernels.gpu.linear.DEVICE", "cuda")
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if message is None:
        check_device(torch.device("cuda"))
        return
    with pytest.raises(LoadError, match=message):
        check_device(torch.device("cuda"))


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
def test_a_cuda_graph_replays_it() -> None:
    layer = GpuLinear.from_ternary(*codes_and_scales(300, 576, 64), ON)
    x = torch.randn(4, 576, device=ON, dtype=torch.bfloat16)
    layer(x)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, layer(x))


def test_float16_rows_are_rounded_as_their_values_in_float32() -> None:
    x = torch.randn(5, 70, generator=torch.Generator().manual_seed(0)).half()
    half, whole = (gpu.quantize_rows(rows.to(ON), 1e-5) for rows in (x, x.float()))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(half, whole, strict=True))
