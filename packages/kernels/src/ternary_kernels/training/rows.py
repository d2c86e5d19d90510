"""Training kernels for PyTorch tensors on the CPU.

Each function checks its tensors (float32 or bfloat16 where floats are asked for, contiguous) and hands their
addresses to C++ (csrc/training); threads are `torch.get_num_threads()` of the OpenMP runtime that PyTorch
itself runs on. Values are quantized as bitnet_arch does, to the bit:

    quantize_rows         int8 rows with a scale each, nearest or stochastic
    quantize_columns      int8 columns with a scale each, transposed
    ternarize             codes -1, 0, 1 and absmean scales of master weights, in one pass
    scale_sums            int32 sums of a product times the scales of its sides
    group_product         int8 product with a scale for each group of weights
    int8_columns          weights with a scale for each group in int8 with one for each input
    turn_rows             rotary positions, with their gradients
    norm_rows, swiglu_rows, cross_entropy_rows, divergence_rows   with their gradients
"""

from __future__ import annotations

import torch
from torch import Tensor

from ternary_kernels import _native
from wf_formats.errors import NotFiniteError

FLOATS = (torch.float32, torch.bfloat16)


def check(name: str, tensor: Tensor, device: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    """Raises ValueError: another dtype, shape or type of device, or memory with gaps."""
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {tensor.dtype}, not {' or '.join(map(str, dtypes))}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {list(tensor.shape)}, not {list(shape)}")
    if tensor.device.type != device or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous on {device} (it is on {tensor.device}, strides {tensor.stride()})"
        )


def address_of(name: str, tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> int:
    """Raises ValueError: another dtype or shape, not on the CPU, or memory with gaps."""
    check(name, tensor, "cpu", shape, *dtypes)
    return tensor.data_ptr()


def matrix_of(name: str, x: Tensor) -> tuple[int, bool, int, int]:
    """Address, whether bfloat16, rows and columns of a matrix of floats."""
    if x.dim() != 2:
        raise ValueError(f"{name} is {list(x.shape)}, not a matrix")
    rows, cols = x.shape
    return address_of(name, x, (rows, cols), *FLOATS), x.dtype is torch.bfloat16, rows, cols


def _noise(seed: int | None) -> tuple[bool, int]:
    """Whether to round by chance, and 32 bits of the seed."""
    return seed is not None, (seed or 0) & 0xFFFFFFFF


def quantize_rows(x: Tensor, smallest: float, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """codes = round(x * inverse) int8 [rows, cols], inverse = 127 / max(max|x|, smallest) float32 [rows, 1].

    Args:
        x: float32 or bfloat16 [rows, cols].
        seed: of stochastic rounding; None: nearest, ties to even.

    Raises:
        NotFiniteError: naming the row.
    """
    matrix = matrix_of("x", x)
    codes = x.new_empty(x.shape, dtype=torch.int8)
    inverse = x.new_empty((x.shape[0], 1), dtype=torch.float32)
    bad = _native.quantize_rows(
        torch.get_num_threads(),
        *matrix,
        smallest,
        *_noise(seed),
        codes.data_ptr(),
        inverse.data_ptr(),
    )
    if bad >= 0:
        raise NotFiniteError(f"row {bad} of {x.shape[0]} is not finite (NaN or infinity)")
    return codes, inverse


def quantize_columns(
    x: Tensor, factors: Tensor, smallest: float, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """What `quantize_rows` makes of the transpose of x * factors: int8 [cols, rows], float32 [cols, 1].

    Args:
        factors: float32 [rows, 1].
    """
    matrix = matrix_of("x", x)
    codes = x.new_empty(x.shape[::-1], dtype=torch.int8)
    inverse = x.new_empty((x.shape[1], 1), dtype=torch.float32)
    finite = _native.quantize_columns(
        torch.get_num_threads(),
        *matrix,
        address_of("factors", factors, (x.shape[0], 1), torch.float32),
        smallest,
        *_noise(seed),
        codes.data_ptr(),
        inverse.data_ptr(),
    )
    if not finite:
        raise NotFiniteError(f"a column of {x.shape[1]} is not finite (NaN or infinity)")
    return codes, inverse


def scale_sums(
    sums: Tensor, row_factors: Tensor, dtype: torch.dtype, col_factors: Tensor | None = None
) -> Tensor:
    """sums * row_factors * col_factors in `dtype`; the memory of `sums` is taken for float32.

    Args:
        sums: int32 [rows, cols].
        row_factors: float32 [rows, 1].
        col_factors: float32 [cols]; None: 1.
    """
    rows, cols = sums.shape
    out = sums.view(torch.float32) if dtype is torch.float32 else sums.new_empty((rows, cols), dtype=dtype)
    _native.scale_sums(
        torch.get_num_threads(),
        address_of("sums", sums, (rows, cols), torch.int32),
        address_of("row_factors", row_factors, (rows, 1), torch.float32),
        0 if col_factors is None else address_of("col_factors", col_factors, (cols,), torch.float32),
        address_of("out", out, (rows, cols), *FLOATS),
        dtype is torch.bfloat16,
        rows,
        cols,
    )
    return out


def groups_of(cols: int, group_size: int) -> int:
    """How many groups a row has. Raises ValueError: it does not divide into groups of this size."""
    if cols % group_size:
        raise ValueError(f"{cols} inputs do not divide into groups of {group_size}")
    return cols // group_size


def ternarize(weight: Tensor, group_size: int | None, smallest: float) -> tuple[Tensor, Tensor]:
    """Codes int8 [out, in] and scales float32 [] or [out, groups] of master weights (absmean).

    Raises:
        ValueError: rows do not divide into groups.
        NotFiniteError: naming the row.
    """
    rows, cols = weight.shape
    codes = weight.new_empty((rows, cols), dtype=torch.int8)
    scales = weight.new_empty((rows, groups_of(cols, group_size)) if group_size else ())
    address = address_of("weight", weight, (rows, cols), torch.float32)
    bad = _native.ternarize(
        torch.get_num_threads(),
        address,
        rows,
        cols,
        group_size or 0,
        smallest,
        codes.data_ptr(),
        scales.data_ptr(),
    )
    if bad >= 0:
        raise NotFiniteError(f"row {bad} of {rows} of the weight is not finite (NaN or infinity)")
    return codes, scales


def group_product(x: Tensor, inverse: Tensor, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """[tokens, out] in `dtype`: int32 sums of each group times its scale, over the token's inverse scale.

    Args:
        x: int8 [tokens, in]; inverse: float32 [tokens, 1].
        codes: int8 [out, in]; scales: float32 [out, groups], groups of a multiple of 4 inputs.
    """
    (tokens, cols), rows, groups = x.shape, codes.shape[0], scales.shape[1]
    if not cols or cols % groups or cols // groups % 4:
        raise ValueError(f"{cols} inputs do not divide into {groups} groups of a multiple of 4")
    out = torch.empty((tokens, rows), dtype=dtype)
    _native.group_product(
        torch.get_num_threads(),
        address_of("codes", codes, (rows, cols), torch.int8),
        address_of("scales", scales, (rows, groups), torch.float32),
        rows,
        cols,
        cols // groups,
        address_of("x", x, (tokens, cols), torch.int8),
        address_of("inverse", inverse, (tokens, 1), torch.float32),
        address_of("out", out, (tokens, rows), *FLOATS),
        dtype is torch.bfloat16,
        tokens,
    )
    return out


def int8_columns(codes: Tensor, scales: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The weight in int8 with one scale for each input: codes int8 [out, in], scales float32 [in].

    Args:
        codes: int8 [out, in] within [-most, most]; scales: float32 [out], or [out, groups].
    """
    (rows, cols), groups = codes.shape, scales.numel() // codes.shape[0]
    if cols % groups:
        raise ValueError(f"{cols} inputs do not divide into {groups} groups")
    columns, col_scales = torch.empty_like(codes), scales.new_empty(cols)
    _native.int8_columns(
        torch.get_num_threads(),
        address_of("codes", codes, (rows, cols), torch.int8),
        address_of("scales", scales, (rows, groups) if scales.dim() > 1 else (rows,), torch.float32),
        rows,
        cols,
        cols // groups,
        most,
        columns.data_ptr(),
        col_scales.data_ptr(),
    )
    return columns, col_scales


def turn_rows(x: Tensor, cosine: Tensor, sine: Tensor, backward: bool) -> Tensor:
    """x * cosine + (-second half, first half) * sine of each head, or the gradient of x for that of this.

    Rounded as PyTorch's operators round it; forward, bfloat16 x with float32 angles are rounded once.

    Args:
        x: float32 or bfloat16 [batches, tokens, heads, size], of an even size.
        cosine: float32 or bfloat16 [batches or 1, tokens, size]; sine likewise.
    """
    batches, tokens, heads, size = x.shape
    if size % 2 or cosine.shape[0] not in (1, batches):
        raise ValueError(f"heads {list(x.shape)} are not turned by angles {list(cosine.shape)}")
    shape = (cosine.shape[0], tokens, size)
    out = torch.empty_like(x)
    _native.turn(
        torch.get_num_threads(),
        *matrix_of("x", x.view(batches * tokens, heads * size)),
        address_of("cosine", cosine, shape, *FLOATS),
        address_of("sine", sine, shape, cosine.dtype),
        cosine.dtype is torch.bfloat16,
        shape[0] * tokens,
        size,
        backward,
        out.data_ptr(),
    )
    return out


def norm_rows(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """weight * x * factor like x, and factor = 1 / sqrt(mean(x^2) + eps) float32 [rows].

    Args:
        x: float32 or bfloat16 [rows, cols]; weight: float32 [cols].
    """
    matrix = matrix_of("x", x)
    out, factors = torch.empty_like(x), x.new_empty(x.shape[0], dtype=torch.float32)
    _native.norm(
        torch.get_num_threads(),
        *matrix,
        address_of("weight", weight, x.shape[1:], torch.float32),
        eps,
        out.data_ptr(),
        factors.data_ptr(),
    )
    return out, factors


def norm_rows_backward(grad: Tensor, x: Tensor, weight: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x (like x) and of weight (float32) for the gradient of `norm_rows`' first result."""
    grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
    _native.norm_backward(
        torch.get_num_threads(),
        *matrix_of("grad", grad),
        address_of("x", x, grad.shape, grad.dtype),
        address_of("weight", weight, grad.shape[1:], torch.float32),
        address_of("factors", factors, grad.shape[:1], torch.float32),
        grad_x.data_ptr(),
        grad_weight.data_ptr(),
    )
    return grad_x, grad_weight


def swiglu_rows(gate: Tensor, up: Tensor) -> Tensor:
    """gate / (1 + exp(-gate)) * up: float32 or bfloat16 [rows, cols]."""
    out = torch.empty_like(gate)
    _native.swiglu(
        torch.get_num_threads(),
        *matrix_of("gate", gate),
        address_of("up", up, gate.shape, gate.dtype),
        out.data_ptr(),
    )
    return out


def swiglu_rows_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    _native.swiglu_backward(
        torch.get_num_threads(),
        *matrix_of("grad", grad),
        address_of("gate", gate, grad.shape, grad.dtype),
        address_of("up", up, grad.shape, grad.dtype),
        grad_gate.data_ptr(),
        grad_up.data_ptr(),
    )
    return grad_gate, grad_up


def check_labels(labels: Tensor, vocabulary: int, ignored: int) -> None:
    """Raises ValueError: a label outside the vocabulary that is not `ignored`."""
    outside = ((labels < 0) | (labels >= vocabulary)) & (labels != ignored)
    if outside.any():
        raise ValueError(f"label {labels[outside][0].item()} is outside the vocabulary of {vocabulary}")


def cross_entropy_rows(logits: Tensor, labels: Tensor, ignored: int, grad_factor: float | None) -> Tensor:
    """Losses in nats, float64 [rows], 0 where the label is `ignored`; NaN where a logit is no number.

    Args:
        logits: float32 or bfloat16 [rows, vocabulary]; with a factor they become their gradients,
            (softmax - onehot) * grad_factor.
        labels: int64 [rows].

    Raises:
        ValueError: a label outside the vocabulary.
    """
    address, bf16, rows, cols = matrix_of("logits", logits)
    places = address_of("labels", labels, (rows,), torch.int64)
    check_labels(labels, cols, ignored)
    losses = logits.new_empty(rows, dtype=torch.float64)
    _native.cross_entropy(
        torch.get_num_threads(),
        address,
        bf16,
        rows,
        cols,
        places,
        ignored,
        grad_factor or 0.0,
        losses.data_ptr(),
    )
    return losses


def divergence_rows(logits: Tensor, expected: Tensor, grad_factor: float | None) -> Tensor:
    """KL(softmax(expected) || softmax(logits)) in nats, float64 [rows]; NaN where a logit is no number.

    Args:
        logits: float32 or bfloat16 [rows, vocabulary]; with a factor they become their gradients,
            (softmax(logits) - softmax(expected)) * grad_factor.
        expected: like logits.
    """
    losses = logits.new_empty(logits.shape[0], dtype=torch.float64)
    _native.divergence(
        torch.get_num_threads(),
        *matrix_of("logits", logits),
        address_of("expected", expected, tuple(logits.shape), logits.dtype),
        grad_factor or 0.0,
        losses.data_ptr(),
    )
    return losses
