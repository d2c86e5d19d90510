"""The Triton kernels against those of the CPU, and against PyTorch in float64.

test_gpu.py runs this file in a process of its own: Triton's interpreter is chosen before Triton is imported.
"""

import math

import pytest
import torch
from beside_pytorch import compare, no_worse_than_pytorch, norm_case, random, results, swiglu_case
from torch import Tensor
from torch.nn import functional as F

from ternary_kernels import gpu, training
from ternary_kernels.gpu.launch import DEVICE

SIZES = [1, 64, 65]
DTYPES = [torch.float32, torch.bfloat16]
SMALLEST = 1e-5
SEEDS = (0, 5)


def codes_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(mine.cpu(), theirs) for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("seed", [None, 2**31 - 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 17, 4100])
def test_rows_are_rounded_as_on_the_cpu(size: int, dtype: torch.dtype, seed: int | None) -> None:
    x = random(7, size, dtype=dtype)
    x[5] = 0
    x[6] *= 1e-9
    x[4] = (torch.arange(size) % 256 - 127.5).to(dtype) / 127.5  # halves among them
    for rows in (x, x[:1]):
        found = gpu.quantize_rows(rows.to(DEVICE), SMALLEST, seed)
        assert equal(found, training.quantize_rows(rows, SMALLEST, seed))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 17, 4100])
def test_codes_become_values_as_pytorch_divides(size: int, dtype: torch.dtype) -> None:
    codes, inverse = codes_of(7, size), random(7, 1).abs() * 1e3
    inverse[5], inverse[6] = torch.nan, 127 / SMALLEST
    found = gpu.dequantize_rows(codes.to(DEVICE), inverse.to(DEVICE), dtype)
    expected = torch.div(codes, inverse, out=torch.empty(7, size, dtype=dtype))
    assert found.dtype is dtype
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "size"), [(1, 1), (5, 70), (33, 129), (70, 17)])
def test_columns_are_rounded_as_on_the_cpu(
    tokens: int, size: int, dtype: torch.dtype, seed: int | None
) -> None:
    x, factors = random(tokens, size, dtype=dtype), random(tokens, 1, seed=1).abs()
    found = gpu.quantize_columns(x.to(DEVICE), factors.to(DEVICE), 1e-30, seed)
    assert equal(found, training.quantize_columns(x, factors, 1e-30, seed))


@pytest.mark.parametrize(
    ("rows", "cols", "group"),
    [(1, 1, None), (70, 65, None), (3, 2050, None), (5, 128, 64), (33, 384, 128), (2, 8200, 4100)],
)
def test_master_weights_become_the_codes_and_scales_of_the_cpu(
    rows: int, cols: int, group: int | None
) -> None:
    weight = random(rows, cols) * 0.02
    weight[0] = 0
    found = gpu.ternarize(weight.to(DEVICE), group, SMALLEST)
    assert equal(found, training.ternarize(weight, group, SMALLEST))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "cols", "groups"), [(1, 1, None), (5, 70, 0), (33, 384, 6), (2, 8200, 2), (3, 4, 4)]
)
def test_codes_and_scales_become_values(rows: int, cols: int, groups: int | None, dtype: torch.dtype) -> None:
    """A scale for the matrix (None), for each row (0), for each group."""
    codes = codes_of(rows, cols)
    shape = () if groups is None else (rows, groups) if groups else (rows,)
    scales = random(rows * (groups or 1)).abs()[: math.prod(shape)].view(shape)
    if scales.dim() > 1:
        scales[1, 1] = torch.nan
    found = gpu.dequantize_groups(codes.to(DEVICE), scales.to(DEVICE), dtype)
    factors = scales.to(dtype).reshape(-1, groups or 1, 1)
    expected = (codes.to(dtype).view(rows, groups or 1, -1) * factors).view(rows, cols)
    assert found.dtype is dtype
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_columns", [False, True])
@pytest.mark.parametrize("size", [1, 17, 300])
def test_sums_are_scaled_as_on_the_cpu(size: int, with_columns: bool, dtype: torch.dtype) -> None:
    sums = torch.randint(-(2**23), 2**23, (9, size), dtype=torch.int32)
    rows, cols = random(9, 1), random(size, seed=1) if with_columns else None
    there = gpu.scale_sums(
        sums.to(DEVICE, copy=True), rows.to(DEVICE), dtype, None if cols is None else cols.to(DEVICE)
    )
    assert torch.equal(there.cpu(), training.scale_sums(sums, rows, dtype, cols))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "rows", "cols", "group"),
    [(1, 1, 64, 64), (5, 70, 128, 64), (70, 130, 384, 128), (6, 33, 24, 4), (2, 3, 96, 48)],
)
def test_group_products_are_exact(tokens: int, rows: int, cols: int, group: int, dtype: torch.dtype) -> None:
    x, codes = codes_of(tokens, cols), codes_of(rows, cols, seed=1)
    inverse, scales = random(tokens, 1).abs() + 1, random(rows, cols // group).abs()
    there = gpu.group_product(*(part.to(DEVICE) for part in (x, inverse, codes, scales)), dtype)
    weight = (codes.view(rows, -1, group).double() * scales.double().unsqueeze(-1)).view(rows, cols)
    exact = (x.double() / inverse.double()) @ weight.t()
    tolerance = 1e-6 if dtype is torch.float32 else 2**-8
    torch.testing.assert_close(there.cpu().double(), exact, rtol=0, atol=tolerance * exact.abs().max().item())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_norm_and_its_gradients(size: int, dtype: torch.dtype) -> None:
    case = norm_case(2, 9, size, dtype=dtype)
    compare(lambda x, weight: gpu.rms_norm(x, weight, 1e-5)[0], *case, SEEDS, DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_swiglu_and_its_gradients(size: int, dtype: torch.dtype) -> None:
    compare(gpu.swiglu, *swiglu_case(2, 19, size, dtype=dtype), SEEDS, DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 15, 8200])
def test_cross_entropy_and_its_gradient(size: int, dtype: torch.dtype) -> None:
    logits = random(6, size, dtype=dtype)
    labels = torch.tensor([0, size - 1, -100, size // 2, 0, size - 1])

    def reference(x: Tensor) -> Tensor:
        return F.cross_entropy(x.float() if x.dtype is torch.bfloat16 else x, labels, reduction="none")

    exact = results(reference, [logits.double()], torch.full((6,), 0.25))
    theirs = results(reference, [logits], torch.full((6,), 0.25))
    grad = logits.to(DEVICE, copy=True)
    untouched = gpu.cross_entropy_rows(grad, labels.to(DEVICE), -100, None)
    assert torch.equal(grad.cpu(), logits)
    losses = gpu.cross_entropy_rows(grad, labels.to(DEVICE), -100, 0.25)
    assert torch.equal(losses, untouched)
    assert losses[2] == 0
    no_worse_than_pytorch([((losses.float(), grad), theirs, exact)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 5001])
def test_divergence_and_its_gradient(size: int, dtype: torch.dtype) -> None:
    logits, expected = random(4, size, dtype=dtype), random(4, size, dtype=dtype, seed=1)

    def reference(x: Tensor) -> Tensor:
        wide = x.float() if x.dtype is torch.bfloat16 else x
        wanted = expected.to(wide.dtype).log_softmax(-1)
        return F.kl_div(wide.log_softmax(-1), wanted, reduction="none", log_target=True).sum(-1)

    exact = results(reference, [logits.double()], torch.full((4,), 0.25))
    theirs = results(reference, [logits], torch.full((4,), 0.25))
    grad = logits.to(DEVICE, copy=True)
    losses = gpu.divergence_rows(grad, expected.to(DEVICE), 0.25)
    no_worse_than_pytorch([((losses.float(), grad), theirs, exact)])


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_makes_no_numbers(bad: float, dtype: torch.dtype) -> None:
    """Of its row, column, group or matrix alone; nobody waits for the GPU to say so."""
    x = random(6, 70, dtype=dtype).to(DEVICE)
    x[3, 69] = x[5, 1] = bad
    assert rows_of_nan(gpu.quantize_rows(x, SMALLEST)[1]) == [3, 5]
    assert rows_of_nan(gpu.quantize_columns(x, torch.ones(6, 1, device=DEVICE), SMALLEST)[1]) == [1, 69]
    assert rows_of_nan(gpu.ternarize(x.float(), 10, SMALLEST)[1].flatten()) == [3 * 7 + 6, 5 * 7]
    assert gpu.ternarize(x.float(), None, SMALLEST)[1].isnan()
    labels = torch.zeros(6, dtype=torch.long, device=DEVICE)
    assert rows_of_nan(gpu.cross_entropy_rows(x, labels, -100, 1.0)) == [3, 5]
    assert gpu.divergence_rows(random(6, 70, dtype=dtype).to(DEVICE), x, 1.0)[3].isnan()


def rows_of_nan(x: Tensor) -> list[int]:
    return x.flatten().isnan().nonzero().flatten().tolist()


def test_tensors_that_do_not_fit_are_refused() -> None:
    x = random(8, 64).to(DEVICE)
    with pytest.raises(ValueError, match=r"x is torch.float64, not torch.float32 or torch.bfloat16"):
        gpu.quantize_rows(x.double(), SMALLEST)
    with pytest.raises(ValueError, match=r"x must be contiguous"):
        gpu.quantize_rows(x.t(), SMALLEST)
    with pytest.raises(ValueError, match=r"x is \[64\], not a matrix"):
        gpu.quantize_rows(x[0], SMALLEST)
    with pytest.raises(ValueError, match=r"weight is \[63\], not \[64\]"):
        gpu.rms_norm(x, torch.ones(63, device=DEVICE), 1e-5)
    with pytest.raises(ValueError, match="label 64 is outside the vocabulary of 64"):
        gpu.cross_entropy_rows(x, torch.full((8,), 64, device=DEVICE), -100, None)
    codes, ones = torch.zeros(4, 64, dtype=torch.int8, device=DEVICE), torch.ones(4, 3, device=DEVICE)
    with pytest.raises(ValueError, match=r"inverse_scales is \[4, 3\], not \[4, 1\]"):
        gpu.dequantize_rows(codes, ones, torch.bfloat16)
    heads = random(2, 3, 1, 6).to(DEVICE)
    with pytest.raises(ValueError, match=r"heads \[2, 3, 1, 6\] are not turned by angles \[3, 3, 6\]"):
        gpu.turn(heads, heads, *random(2, 3, 3, 6).to(DEVICE))
    with pytest.raises(ValueError, match=r"k is torch.float32, not torch.bfloat16"):
        gpu.turn(heads.bfloat16(), heads, *random(2, 1, 3, 6).to(DEVICE))
    with pytest.raises(ValueError, match="64 inputs do not divide into groups of 48"):
        gpu.ternarize(x, 48, SMALLEST)
    with pytest.raises(ValueError, match="64 inputs do not divide into 3 groups"):
        gpu.dequantize_groups(codes, ones, torch.bfloat16)
    with pytest.raises(ValueError, match="64 inputs do not divide into 3 groups"):
        gpu.group_product(codes, ones[:, :1].contiguous(), codes, ones, torch.float32)


def test_kernels_start_on_the_gpu_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Tensor] = []
    device_of = torch.cuda.device_of
    monkeypatch.setattr(torch.cuda, "device_of", lambda x: (chosen.append(x), device_of(x))[1])
    x = random(3, 5).to(DEVICE)
    gpu.swiglu(x, x)
    assert len(chosen) == 1
    assert chosen[0].data_ptr() == x.data_ptr()
