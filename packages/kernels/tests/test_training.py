"""Training kernels against PyTorch in float64, on every instruction set, at odd sizes."""

import pytest
import torch
from beside_pytorch import compare, no_worse_than_pytorch, norm_case, random, results, swiglu_case
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ternary_kernels import training
from ternary_kernels.training import ops
from wf_formats.errors import NotFiniteError

pytestmark = pytest.mark.usefixtures("instruction_set")
SIZES = [1, 3, 15, 16, 17, 63, 64, 65, 576]
DTYPES = [torch.float32, torch.bfloat16]
SMALLEST = 1e-5
SEEDS = range(0, 40, 5)


def rounded_rows(x: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """The formula of bitnet_arch.activations."""
    inverse = 127 / x.float().abs().amax(1, keepdim=True).clamp(min=smallest)
    return (x.float() * inverse).round().clamp(-128, 127).to(torch.int8), inverse


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_rows_are_rounded_as_the_formula_says(size: int, dtype: torch.dtype, threads: None) -> None:
    x = random(37, size, dtype=dtype)
    x[5] = 0
    x[6] *= 1e-9
    for found, expected in zip(training.quantize_rows(x, SMALLEST), rounded_rows(x, SMALLEST), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "size"), [(1, 1), (5, 70), (16, 64), (33, 129), (64, 17)])
def test_columns_are_the_rows_of_the_transpose(
    tokens: int, size: int, dtype: torch.dtype, threads: None
) -> None:
    x, factors = random(tokens, size, dtype=dtype), random(tokens, 1, seed=1).abs()
    found = training.quantize_columns(x, factors, 1e-30)
    expected = training.quantize_rows((x.float() * factors).t().contiguous(), 1e-30)
    for mine, reference in zip(found, expected, strict=True):
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_chance_rounds_to_the_neighbours_with_the_right_mean(kind: str) -> None:
    x = random(4, 48) if kind == "rows" else random(48, 4)
    ones = torch.ones(x.shape[0], 1)

    def draw(seed: int) -> Tensor:
        if kind == "rows":
            return training.quantize_rows(x, 1e-30, seed)[0]
        return training.quantize_columns(x, ones, 1e-30, seed)[0]

    target = x if kind == "rows" else x.t()
    exact = target * (127 / target.abs().amax(1, keepdim=True))
    draws = torch.stack([draw(seed) for seed in range(3000)]).double()
    assert ((draws - exact).abs() < 1 + 1e-4).all()
    torch.testing.assert_close(draws.mean(0), exact.double(), rtol=0, atol=0.05)
    assert torch.equal(draw(7), draw(7))
    assert not torch.equal(draw(7), draw(8))


@pytest.mark.parametrize(
    ("rows", "cols", "group"), [(1, 1, None), (70, 65, None), (5, 128, 64), (33, 384, 128)]
)
def test_master_weights_become_codes_and_absmean_scales(
    rows: int, cols: int, group: int | None, threads: None
) -> None:
    weight = random(rows, cols) * 0.02
    grouped = weight.view(rows, -1, group) if group else weight.view(1, 1, -1)
    mean = grouped.abs().mean(-1, keepdim=True, dtype=torch.float64).float()
    inverse = 1 / mean.clamp(min=SMALLEST)
    codes, scales = training.ternarize(weight, group, SMALLEST)
    assert torch.equal(scales, (1 / inverse).reshape(scales.shape))
    expected = (grouped * inverse).round().clamp(-1, 1).to(torch.int8)
    assert torch.equal(codes, expected.view(weight.shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_columns", [False, True])
@pytest.mark.parametrize("size", [1, 17, 64])
def test_sums_are_scaled(size: int, with_columns: bool, dtype: torch.dtype) -> None:
    sums = torch.randint(-(2**23), 2**23, (5, size), dtype=torch.int32)
    rows, cols = random(5, 1), random(1, size, seed=1)[0] if with_columns else None
    expected = sums.float() * rows
    expected = expected if cols is None else expected * cols
    assert torch.equal(training.scale_sums(sums.clone(), rows, dtype, cols), expected.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "rows", "cols", "group"),
    [(1, 1, 64, 64), (5, 70, 128, 64), (13, 48, 384, 128), (6, 33, 24, 4), (7, 20, 1024, 512)],
)
@pytest.mark.parametrize("codes_from", [-1, -128], ids=["ternary", "int8"])
@pytest.mark.parametrize("extreme", [None, -128, 127])
def test_group_products_are_exact(
    tokens: int,
    rows: int,
    cols: int,
    group: int,
    codes_from: int,
    extreme: int | None,
    dtype: torch.dtype,
    threads: None,
) -> None:
    x = torch.randint(-128, 128, (tokens, cols), dtype=torch.int8)
    codes = torch.randint(codes_from, 1 - codes_from, (rows, cols)).clamp(max=127).to(torch.int8)
    if extreme is not None:  # sums as large as they can be
        x, codes = torch.full_like(x, extreme), torch.full_like(codes, min(-codes_from, 127))
    inverse, scales = random(tokens, 1).abs() + 1, random(rows, cols // group).abs()
    found = training.group_product(x, inverse, codes, scales, dtype)
    weight = (codes.view(rows, -1, group).double() * scales.double().unsqueeze(-1)).view(rows, cols)
    exact = (x.double() / inverse.double()) @ weight.t()
    largest = exact.abs().max().item()
    tolerance = 1e-6 if dtype is torch.float32 else 2**-8
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=tolerance * largest + 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_norm_and_its_gradients(size: int, dtype: torch.dtype, threads: None) -> None:
    case = norm_case(3, 23, size, dtype=dtype)
    compare(lambda x, weight: ops.rms_norm(x, weight, 1e-5)[0], *case, SEEDS, "cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_swiglu_and_its_gradients(size: int, dtype: torch.dtype, threads: None) -> None:
    compare(ops.swiglu, *swiglu_case(2, 19, size, dtype=dtype), SEEDS, "cpu")


@pytest.mark.parametrize("most", [1, 8])
@pytest.mark.parametrize(("rows", "cols", "groups"), [(1, 1, 1), (5, 60, 4), (33, 384, 6), (17, 70, None)])
def test_groups_become_int8_columns(
    rows: int, cols: int, groups: int | None, most: int, threads: None
) -> None:
    codes = torch.randint(-most, most + 1, (rows, cols), dtype=torch.int8)
    scales = random(rows, groups or 1).abs() + 1e-3
    largest = scales.amax(0, keepdim=True)
    multiples = (scales / largest * (127 / most)).round().to(torch.int8).unsqueeze(-1)
    columns, column_scales = training.int8_columns(codes, scales if groups else scales[:, 0], most)
    assert torch.equal(columns, (codes.view(rows, groups or 1, -1) * multiples).view(codes.shape))
    expected = (largest[0] * (most / 127)).repeat_interleave(cols // (groups or 1))
    assert torch.equal(column_scales, expected)


@pytest.mark.parametrize(("dtype", "of_angles"), [*zip(DTYPES, DTYPES, strict=True), (DTYPES[1], DTYPES[0])])
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(1, 1, 2), (3, 1, 30), (4, 2, 64), (2, 2, 66)])
@pytest.mark.parametrize("own_angles", [False, True])
def test_positions_are_turned_as_by_the_operators(
    heads: int,
    key_heads: int,
    size: int,
    own_angles: bool,
    dtype: torch.dtype,
    of_angles: torch.dtype,
    threads: None,
) -> None:
    """To the bit, forward and backward; bfloat16 beside float32 angles is rounded at the end."""
    cosine, sine = random(2, 2 if own_angles else 1, 19, size, seed=5).to(of_angles)
    q, k = (random(2, 19, n, size, dtype=dtype, seed=n).requires_grad_() for n in (heads, key_heads))
    found = ops.turn(q, k, cosine, sine)
    theirs = apply_rotary_pos_emb(q, k, cosine, sine, unsqueeze_dim=2)
    upstream = [random(*x.shape, dtype=dtype, seed=9) for x in (q, k)]
    mine, reference = (
        torch.autograd.grad([y.to(dtype) for y in turned], [q, k], upstream) for turned in (found, theirs)
    )
    for x, y in zip((*found, *mine), (*theirs, *reference), strict=True):
        assert torch.equal(x, y.to(dtype))
    compare(
        lambda x: ops.turn(x, x, cosine, sine)[1],
        lambda x: apply_rotary_pos_emb(x, x, cosine.to(x.dtype), sine.to(x.dtype), unsqueeze_dim=2)[1],
        lambda seed: ([random(*q.shape, dtype=dtype, seed=seed)], upstream[0]),
        SEEDS,
        "cpu",
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 15, 64, 1000, 49153])
def test_cross_entropy_and_its_gradient(size: int, dtype: torch.dtype, threads: None) -> None:
    logits = random(6, size, dtype=dtype)
    labels = torch.tensor([0, size - 1, -100, size // 2, 0, size - 1])

    def reference(x: Tensor) -> Tensor:
        return F.cross_entropy(x.float() if x.dtype is torch.bfloat16 else x, labels, reduction="none")

    exact = results(reference, [logits.double()], torch.full((6,), 0.25))
    theirs = results(reference, [logits], torch.full((6,), 0.25))
    assert training.cross_entropy_rows(logits, labels, -100, None)[2] == 0
    grad = logits.clone()
    losses = training.cross_entropy_rows(grad, labels, -100, 0.25)
    no_worse_than_pytorch([((losses.float(), grad), theirs, exact)])


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's own, with heads that share keys."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    seen = None if mask is None else mask.unsqueeze(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=mask is None, scale=0.2)


def mask_of(kind: str, tokens: int) -> Tensor | None:
    """[2, tokens, tokens]: none, any keys, or those before in the same document."""
    if kind == "no":
        return None
    if kind == "documents":
        document = torch.arange(tokens) // 70 + torch.tensor([[0], [1]]) * (torch.arange(tokens) > 3)
        return (document.unsqueeze(2) == document.unsqueeze(1)).tril()
    seen = torch.rand(2, tokens, tokens, generator=torch.Generator().manual_seed(3)) < 0.5
    return seen | torch.eye(tokens, dtype=torch.bool)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", ["no", "freely", "documents"])
@pytest.mark.parametrize(
    ("heads", "key_heads", "tokens", "size"), [(1, 1, 1, 4), (4, 2, 33, 8), (9, 3, 16, 5), (2, 1, 300, 4)]
)
def test_attention_and_its_gradients(
    heads: int, key_heads: int, tokens: int, size: int, masked: str, dtype: torch.dtype, threads: None
) -> None:
    mask = mask_of(masked, tokens)

    def make(seed: int) -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(seed)
        q, upstream = (torch.randn(2, heads, tokens, size).to(dtype) for _ in range(2))
        return [q, *(torch.randn(2, key_heads, tokens, size).to(dtype) for _ in range(2))], upstream

    compare(
        lambda q, k, v: training.attention(q, k, v, mask, 0.2),
        lambda q, k, v: attended(q, k, v, mask),
        make,
        SEEDS,
        "cpu",
    )


def test_bfloat16_keeps_large_scores_apart() -> None:
    """Scores near 200 that differ by 0.5, which bfloat16 would round to the same number."""
    q = torch.full((1, 1, 2, 4), 10.0, dtype=torch.bfloat16)
    k = torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0625]], dtype=torch.bfloat16).view(1, 1, 2, 4)
    v = torch.tensor([0.0, 1.0], dtype=torch.bfloat16).view(1, 1, 2, 1).expand(1, 1, 2, 4)
    share = training.attention(q, k, v.contiguous(), None, 1.0)[0, 0, 1, 0].item()
    assert share == pytest.approx(torch.tensor(0.625).sigmoid().item(), abs=0.005)


def test_a_query_that_sees_nothing_gets_nothing() -> None:
    q, k, v = (torch.randn(1, 1, 3, 4, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[[True, False, False], [False, False, False], [True, True, True]]])
    y = training.attention(q, k, v, mask, 0.5)
    y.sum().backward()
    assert torch.equal(y[0, 0, 1], torch.zeros(4))
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))
    with pytest.raises(ValueError, match=r"mask is \[1, 3, 2\], not \[1, 3, 3\]"):
        training.attention(q, k, v, mask[:, :, :2].contiguous(), 0.5)
    with pytest.raises(ValueError, match="1 heads do not share keys"):
        training.attention(q, k.repeat(1, 2, 1, 1), v, None, 0.5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_is_refused(bad: float, dtype: torch.dtype) -> None:
    x = random(40, 70, dtype=dtype)
    x[33, 69] = bad
    with pytest.raises(NotFiniteError, match="row 33 of 40"):
        training.quantize_rows(x, SMALLEST)
    with pytest.raises(NotFiniteError, match="column"):
        training.quantize_columns(x, torch.ones(40, 1), SMALLEST)
    for group in (None, 10):
        with pytest.raises(NotFiniteError, match="row 33 of 40"):
            training.ternarize(x.float(), group, SMALLEST)
    assert training.cross_entropy_rows(x, torch.zeros(40, dtype=torch.long), -100, None)[33].isnan()


def test_tensors_that_do_not_fit_are_refused() -> None:
    x = random(8, 64)
    with pytest.raises(ValueError, match=r"x is torch.float64, not torch.float32 or torch.bfloat16"):
        training.quantize_rows(x.double(), SMALLEST)
    with pytest.raises(ValueError, match=r"x must be contiguous"):
        training.quantize_rows(x.t(), SMALLEST)
    with pytest.raises(ValueError, match=r"weight is \[63\], not \[64\]"):
        ops.rms_norm(x, torch.ones(63), 1e-5)
    with pytest.raises(ValueError, match="label 64 is outside the vocabulary of 64"):
        training.cross_entropy_rows(x, torch.full((8,), 64), -100, None)
    with pytest.raises(ValueError, match="64 inputs do not divide into groups of 48"):
        training.ternarize(x, 48, SMALLEST)
    codes = torch.zeros(4, 64, dtype=torch.int8)
    with pytest.raises(ValueError, match="64 inputs do not divide into 3 groups"):
        training.group_product(codes, torch.ones(4, 1), codes, torch.ones(4, 3), torch.float32)
    with pytest.raises(ValueError, match="64 inputs do not divide into 3 groups"):
        training.int8_columns(codes, torch.ones(4, 3), 1)
    heads = random(2, 3, 1, 6)
    with pytest.raises(ValueError, match=r"heads \[2, 3, 1, 6\] are not turned by angles \[3, 3, 6\]"):
        ops.turn(heads, heads, random(3, 3, 6), random(3, 3, 6))
    with pytest.raises(ValueError, match=r"cosine is \[1, 3, 4\], not \[1, 3, 6\]"):
        ops.turn(heads, heads, random(1, 3, 4), random(1, 3, 4))
    with pytest.raises(ValueError, match=r"heads \[2, 3, 1, 5\] are not turned"):
        ops.turn(heads[..., :5], heads[..., :5], random(1, 3, 5), random(1, 3, 5))


@pytest.mark.slow
@pytest.mark.filterwarnings(
    # PyTorch's tracing reads .grad of copies of the inputs, and hides the warning only where it is no error.
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)
def test_operators_keep_the_contracts_of_torch_library() -> None:
    x, weight = random(4, 32).requires_grad_(), nn.Parameter(random(32, seed=1))
    torch.library.opcheck(ops.rms_norm, (x, weight, 1e-5))
    torch.library.opcheck(ops.swiglu, (x, random(4, 32, seed=2).requires_grad_()))
    q, k = (random(2, 3, heads, 6, seed=heads).requires_grad_() for heads in (4, 2))
    torch.library.opcheck(ops.turn, (q, k, random(1, 3, 6), random(1, 3, 6, seed=1)))
