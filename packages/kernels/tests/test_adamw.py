"""AdamW with moments of 32, 16 and 8 bits against float64, on every instruction set."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import ternary_kernels as tk
from ternary_kernels import training

KINDS = [torch.float32, torch.bfloat16, torch.uint8]
SIZES = [1, 0, 15, 255, 256, 257, 4099, 33_000]
RATE, BETAS, EPS, DECAY = 1e-2, (0.9, 0.95), 1e-8, 0.1
STEP = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.uint8: 2.0**-3}
"""Between neighbouring moments, relative."""


@dataclass
class Run:
    weights: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    num_steps: int = 0

    @classmethod
    def new(cls, weights: list[Tensor], kind: torch.dtype) -> Run:
        first, second = ([training.new_moment(w, kind) for w in weights] for _ in range(2))
        return cls([w.clone() for w in weights], first, second)

    def copy(self) -> Run:
        parts = ([x.clone() for x in part] for part in (self.weights, self.first, self.second))
        return Run(*parts, self.num_steps)

    def update(self, grads: list[Tensor], beta2: float = BETAS[1], first_number: int = 0) -> None:
        self.num_steps += 1
        count = len(self.weights)
        training.adamw(
            self.weights,
            grads,
            self.first,
            self.second,
            list(range(first_number, first_number + count)),
            [self.num_steps] * count,
            [RATE] * count,
            [DECAY] * count,
            BETAS[0],
            beta2,
            EPS,
        )

    def bits(self) -> list[Tensor]:
        raw = [x.view(torch.int32) if x.dtype is torch.float32 else x for x in self.weights + self.first]
        return raw + self.second


def values(moment: Tensor, size: int, signed: bool) -> Tensor:
    """What a moment stands for, in float64; codes by their definition in FORMATS.md."""
    if moment.dtype is not torch.uint8:
        return moment.double()
    codes, exponents = moment[:size].long(), moment[size:].long().repeat_interleave(256)[:size]
    magnitudes, num_codes = (codes & 127, 128) if signed else (codes, 256)
    eighths = 8 * (exponents + 1) + magnitudes - num_codes
    found = 2.0 ** (eighths.div(8, rounding_mode="floor") - 127) * (1 + eighths.remainder(8) / 8)
    found = torch.where(magnitudes == 0, 0, found)
    return torch.where(codes >= 128, -found, found) if signed else found


def tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for size in SIZES]


def exact(
    weights: list[Tensor], grads: list[list[Tensor]], dtype: torch.dtype
) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """PyTorch's weights after the updates, and its optimizer."""
    parameters = [w.to(dtype, copy=True).requires_grad_() for w in weights]
    optimizer = torch.optim.AdamW(parameters, RATE, BETAS, EPS, DECAY, fused=True)
    for update in grads:
        for parameter, grad in zip(parameters, update, strict=True):
            parameter.grad = grad.to(dtype)
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer


def rms(found: list[Tensor], expected: list[Tensor]) -> float:
    return float((torch.cat(found).double() - torch.cat(expected).double()).square().mean().sqrt())


def test_float32_errs_no_more_than_pytorch(instruction_set: None, threads: None) -> None:
    weights, grads = tensors(0), [tensors(seed) for seed in range(1, 13)]
    run = Run.new(weights, torch.float32)
    for update in grads:
        run.update(update)
    wide, _ = exact(weights, grads, torch.float64)
    theirs, _ = exact(weights, grads, torch.float32)
    assert rms(run.weights, wide) <= 2 * rms(theirs, wide)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_small_moments_are_neighbours_of_the_exact_ones_and_right_in_the_mean(kind: torch.dtype) -> None:
    weights, grads = tensors(0), tensors(1)
    run, plain = Run.new(weights, kind), Run.new(weights, torch.float32)
    run.update(grads)
    plain.update(grads)
    _, optimizer = exact(weights, [grads], torch.float64)
    assert all(map(torch.equal, run.weights, plain.weights)), "moments are rounded after they are used"
    for index, state in enumerate(optimizer.state.values()):
        for moment, key in ((run.first[index], "exp_avg"), (run.second[index], "exp_avg_sq")):
            found, wanted = values(moment, SIZES[index], key == "exp_avg"), state[key]
            floor = wanted.abs().max() * 2.0**-15 if SIZES[index] else 0
            assert ((found - wanted).abs() <= STEP[kind] * wanted.abs() + floor).all()
            if SIZES[index] > 10_000:
                assert found.abs().sum().item() == pytest.approx(wanted.abs().sum().item(), rel=3e-3)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_sums_of_updates_with_small_moments_follow_the_exact_ones(kind: torch.dtype) -> None:
    weights = [torch.zeros(20_000)]
    signal, generator = torch.randn(20_000), torch.Generator().manual_seed(1)
    grads = [[signal + torch.randn(20_000, generator=generator)] for _ in range(40)]
    run = Run.new(weights, kind)
    for update in grads:
        run.update(update)
    wide, _ = exact(weights, grads, torch.float64)
    moved, wanted = run.weights[0].double(), wide[0]
    assert (moved - wanted).norm() <= {torch.bfloat16: 0.01, torch.uint8: 0.1}[kind] * wanted.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_equal_to_the_bit_everywhere(
    kind: torch.dtype, instruction_set: None, threads: None
) -> None:
    run = Run.new(tensors(0), kind)
    for seed in (1, 2, 3):
        run.update(tensors(seed))
    found, count = run.bits(), torch.get_num_threads()
    tk.select_isa("scalar")
    torch.set_num_threads(1)
    plain = Run.new(tensors(0), kind)
    for seed in (1, 2, 3):
        plain.update(tensors(seed))
    torch.set_num_threads(count)
    assert all(map(torch.equal, found, plain.bits()))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_second_moment_does_not_stall(kind: torch.dtype) -> None:
    """From 1 towards a quarter by less than half a step an update: to nearest it would stay."""
    size, beta2 = 4096, 0.999
    assert torch.tensor(beta2 + 0.25 * (1 - beta2)).bfloat16() == 1
    run = Run.new([torch.zeros(size)], kind)
    run.second = [torch.ones(size, dtype=kind)]
    if kind is torch.uint8:
        run.second = [torch.full((size + size // 256,), 248, dtype=kind)]
        run.second[0][size:] = 127
    for _ in range(300):
        run.update([torch.full((size,), 0.5)], beta2)
    found = values(run.second[0], size, signed=False)
    assert found.mean().item() == pytest.approx(0.25 + 0.75 * beta2**300, rel=0.01)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_noise_repeats_and_differs_by_tensor_and_update(kind: torch.dtype) -> None:
    weights, grads = [torch.randn(5000)], [torch.randn(5000)]
    run = Run.new(weights, kind)
    run.update(grads)
    again, other = run.copy(), run.copy()
    run.update(grads)
    again.update(grads)
    assert all(map(torch.equal, run.bits(), again.bits()))
    other.update(grads, first_number=1)
    assert not torch.equal(run.second[0], other.second[0])
    later = run.copy()
    later.first, later.second = ([training.new_moment(w, kind) for w in weights] for _ in range(2))
    once = Run.new(weights, kind)
    once.update(grads)
    later.update(grads)
    assert not torch.equal(later.first[0], once.first[0])


def test_a_small_gradient_beside_a_large_one_makes_no_leap() -> None:
    """Its second moment is below all codes of the block, and its first one is not."""
    weight = torch.zeros(256)
    grads = torch.full((256,), 1e-6)
    grads[0] = 1e4
    run = Run.new([weight], torch.uint8)
    for grad in (grads, torch.zeros(256), torch.zeros(256)):
        before = run.weights[0].clone()
        run.update([grad])
        assert ((run.weights[0] - before).abs() <= 2 * RATE).all()
    assert (values(run.second[0], 256, signed=False) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-25, 9e18])
def test_extreme_gradients_leave_numbers(scale: float, kind: torch.dtype) -> None:
    run = Run.new([torch.randn(300)], kind)
    for seed in range(3):
        run.update([scale * torch.randn(300, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)])
    assert run.weights[0].isfinite().all()
    assert values(run.second[0], 300, signed=False).isfinite().all()
    assert scale or run.first[0].count_nonzero() == run.second[0].count_nonzero() == 0


def test_bytes_of_a_moment() -> None:
    weight = torch.zeros(1000, 257)
    sizes = [training.new_moment(weight, kind).nbytes for kind in KINDS]
    assert sizes == [1_028_000, 514_000, 257_000 + 1004]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 2e19])
def test_a_gradient_that_is_no_number_is_refused_before_anything_changes(
    bad: float, kind: torch.dtype, threads: None
) -> None:
    run = Run.new(tensors(0), kind)
    run.update(tensors(1))
    before, grads = run.copy(), tensors(2)
    grads[6][4098] = bad
    with pytest.raises(training.GradientError, match="gradient 6 of 8 is not finite") as error:
        run.update(grads)
    assert error.value.index == 6
    assert all(map(torch.equal, run.bits(), before.bits()))


def test_tensors_that_do_not_fit_are_refused() -> None:
    def refused(message: str, **changes: object) -> None:
        run, grads = Run.new([torch.zeros(4, 8)], torch.bfloat16), [torch.ones(4, 8)]
        run.__dict__.update({key: value for key, value in changes.items() if key != "grads"})
        with pytest.raises(ValueError, match=message):
            run.update(changes.get("grads", grads))  # type: ignore[arg-type]

    refused(r"weight is torch\.bfloat16", weights=[torch.zeros(4, 8).bfloat16()])
    refused("weight must be contiguous", weights=[torch.zeros(8, 4).t()])
    refused("grad must be contiguous", grads=[torch.zeros(8, 4).t()])
    refused(r"grad is \[8, 4\], not \[4, 8\]", grads=[torch.zeros(8, 4)])
    refused(r"first is \[31\], not \[32\]", first=[torch.zeros(31).bfloat16()])
    refused(r"first is torch\.float64", first=[torch.zeros(32).double()])
    refused(r"second is torch\.float32, not torch\.bfloat16", second=[torch.zeros(32)])
    refused("steps begin at 1, not 0", num_steps=-1)
    with pytest.raises(ValueError, match="1 values for 0 weights"):
        training.adamw([], [], [], [], [], [1], [], [], 0.9, 0.95, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_operator_keeps_the_contract_of_torch_library(kind: torch.dtype) -> None:
    weights = [torch.randn(3, 100), torch.randn(7)]
    first, second = ([training.new_moment(w, kind) for w in weights] for _ in range(2))
    grads = [torch.randn_like(w) for w in weights]
    numbers = ([0, 1], [1, 1], [RATE, RATE], [0.0, 0.0], *BETAS, EPS)
    torch.library.opcheck(training.adamw, (weights, grads, first, second, *numbers))
