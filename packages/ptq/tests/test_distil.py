"""Distillation of scales and vectors on tiny random models."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from bitnet_arch import bit_linears
from wf_formats.matrix import QuantizedMatrix
from wf_ptq import Distiller, DistilOptions, Rates
from wf_ptq.divergence import Divergence
from wf_ptq.layers import FixedCodes, ScaledLinear, embeddings, from_master_weights
from wf_ptq.ternary.layers import latent_from_master_weights

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = [
    ("tiny_llama", "group64"),
    ("tiny_llama", "tensor"),
    ("tiny_qwen2", "group128"),
    ("tiny_qwen3", "group64"),
]
IDS = torch.randint(0, 512, (24, 32), generator=torch.Generator().manual_seed(5))
OPTIONS = DistilOptions(12, batch_size=6, logit_tokens=6 * 32, rates=Rates(latent=0.01))


def divergence(student, teacher, ids) -> float:
    """Mean nats per token by the models' own forward passes."""
    with torch.no_grad():
        found, expected = (F.log_softmax(m(input_ids=ids).logits.double(), -1) for m in (student, teacher))
    return F.kl_div(found, expected, log_target=True, reduction="none").sum(-1).mean().item()


def quantized(model) -> dict[str, QuantizedMatrix[torch.Tensor]]:
    return {name: layer.quantizer.quantize(layer.weight) for name, layer in bit_linears(model)}


@pytest.mark.parametrize("stand_ins", [from_master_weights, latent_from_master_weights])
@pytest.mark.parametrize(("family", "scheme"), CASES)
def test_divergence_of_a_batch_falls(family, scheme, stand_ins, make_pair) -> None:
    """Reported as of before each step; the same by the models' own forward, before and after."""
    student, teacher = make_pair(family, scheme)
    batch = IDS[:6]
    before = divergence(student, teacher, batch)
    distiller = Distiller(student, teacher, OPTIONS, seed=1, stand_ins=stand_ins)
    reported = [distiller.step(batch) for _ in range(OPTIONS.num_steps)]
    assert distiller.num_steps_done == OPTIONS.num_steps
    # Every position counts here; summation order may tip int8 codes.
    assert reported[0] == pytest.approx(before, rel=0.02)
    assert reported[-1] < 0.95 * reported[0]
    distiller.write_back()
    assert divergence(student, teacher, batch) < 0.95 * before


@pytest.mark.parametrize(("family", "scheme"), CASES)
def test_codes_follow_their_latent_weights(family, scheme, make_pair) -> None:
    student, teacher = make_pair(family, scheme)
    before = quantized(student)
    options = dataclasses.replace(OPTIONS, rates=Rates(latent=0.1))
    distiller = Distiller(student, teacher, options, 1, latent_from_master_weights)
    for batch in 2 * IDS.split(6):
        distiller.step(batch)
    distiller.write_back()
    for name, found in quantized(student).items():
        moved = (found.codes != before[name].codes).float().mean().item()
        assert 0 < moved < 0.3, (name, moved)


@pytest.mark.parametrize(("family", "scheme"), CASES)
def test_written_back_are_the_codes_and_the_tuned_scales(family, scheme, make_pair) -> None:
    student, teacher = make_pair(family, scheme)
    before, parameters = quantized(student), copy.deepcopy(student.state_dict())
    distiller = Distiller(student, teacher, OPTIONS, seed=1)
    for batch in IDS.split(6)[:3]:
        distiller.step(batch)
    stand_ins = {n: module for n, module in student.named_modules() if isinstance(module, ScaledLinear)}
    assert stand_ins.keys() == before.keys()
    tuned = {name: stand_in.scales.detach().clone() for name, stand_in in stand_ins.items()}
    distiller.write_back()
    after = quantized(student)
    assert after.keys() == before.keys()
    for name, found in after.items():
        assert torch.equal(found.codes, before[name].codes), name
        assert not torch.equal(found.scales, before[name].scales), name
        torch.testing.assert_close(found.scales, tuned[name], rtol=2**-11, atol=0)  # float16 where grouped
    for name, layer in bit_linears(student):
        x = torch.randn(4, 3, layer.in_features, generator=torch.Generator().manual_seed(2))
        expected = stand_ins[name](x)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=3e-6 * expected.abs().max().item())
    changed = {
        name for name, value in student.state_dict().items() if not torch.equal(value, parameters[name])
    }
    vectors = {name for name, value in student.named_parameters() if value.dim() == 1}
    weights = {f"{name}.weight" for name in after}
    assert changed == vectors | weights
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in student.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_move_by_their_rate(tied: bool, make_pair, tmp_path) -> None:
    """Both tables where they are two; a state that was saved goes on with them."""

    def pair():
        student, teacher = make_pair("tiny_llama", "group64")
        if not tied:
            head = student.get_output_embeddings()
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
        return student, teacher

    student, teacher = pair()
    options = dataclasses.replace(OPTIONS, rates=Rates(embedding=0.01))
    before = {id(table): table.clone() for table in embeddings(student)}
    assert len(before) == (1 if tied else 2)
    distiller = Distiller(student, teacher, options, seed=1)
    for batch in IDS.split(6)[:2]:
        distiller.step(batch)
    save_file(distiller.state(), tmp_path / "state.safetensors")
    distiller.write_back()
    for table in embeddings(student):
        moved = (table - before[id(table)]).abs() / before[id(table)].abs().mean()
        assert moved.mean() > 0
        assert moved.max() < 0.02
    resumed, _ = pair()
    second = Distiller(resumed, teacher, options, seed=1)
    second.load_state(load_file(tmp_path / "state.safetensors"))
    second.write_back()
    for found, wanted in zip(embeddings(resumed), embeddings(student), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(("family", "scheme"), [("tiny_llama", "tensor"), ("tiny_qwen2", "group128")])
@pytest.mark.parametrize("stand_ins", [from_master_weights, latent_from_master_weights])
@pytest.mark.parametrize("num_before", [0, 2])
def test_resuming_is_exact(family, scheme, num_before, stand_ins, make_pair, tmp_path) -> None:
    batches = IDS.split(6)
    options = DistilOptions(4, batch_size=6, logit_tokens=50, rates=Rates(latent=0.01, embedding=0.01))
    straight, teacher = make_pair(family, scheme)
    whole = Distiller(straight, teacher, options, 7, stand_ins)
    losses = [whole.step(batch) for batch in batches]

    first = Distiller(make_pair(family, scheme)[0], teacher, options, 7, stand_ins)
    found = [first.step(batch) for batch in batches[:num_before]]
    save_file(first.state(), tmp_path / "state.safetensors")
    resumed, _ = make_pair(family, scheme)
    second = Distiller(resumed, teacher, options, 7, stand_ins)
    second.load_state(load_file(tmp_path / "state.safetensors"))
    assert second.num_steps_done == num_before
    found += [second.step(batch) for batch in batches[num_before:]]

    assert found == losses
    state, expected = second.state(), whole.state()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
    for distiller in (whole, second):
        distiller.write_back()
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_the_seed_chooses_the_positions(make_pair) -> None:
    options = DistilOptions(num_steps=4, batch_size=6, logit_tokens=20)
    losses = []
    for seed in (1, 1, 2):
        student, teacher = make_pair("tiny_llama", "group64")
        losses.append(Distiller(student, teacher, options, seed).step(IDS[:6]))
    assert losses[0] == losses[1] != losses[2]


def test_a_teacher_in_bfloat16_sets_the_dtype(make_pair) -> None:
    student, teacher = make_pair("tiny_llama", "group64")
    distiller = Distiller(student, copy.deepcopy(teacher).bfloat16(), OPTIONS, seed=1)
    reported = [distiller.step(IDS[:6]) for _ in range(OPTIONS.num_steps)]
    assert reported[-1] < 0.97 * reported[0]
    distiller.write_back()
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters())


def test_eager_attention_is_refused(make_pair, tiny_llama) -> None:
    student, teacher = make_pair("tiny_llama", "group64")
    eager = copy.deepcopy(teacher)
    eager.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="attention 'eager'"):
        Distiller(student, eager, OPTIONS, seed=1)


@pytest.mark.parametrize("groups", [None, 1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_get_their_share_of_the_gradient(groups: int | None, dtype: torch.dtype) -> None:
    """Autograd of the values in float64; float64 takes PyTorch's operators, float32 the kernels."""
    generator = torch.Generator().manual_seed(4)
    codes = torch.randint(-1, 2, (24, 256), generator=generator).to(torch.int8)
    shape = () if groups is None else (24, groups)
    scales = (torch.rand(shape, generator=generator, dtype=dtype) + 0.1).requires_grad_()
    wide = scales.detach().double().requires_grad_()
    values = codes * (wide if groups is None else wide.repeat_interleave(256 // groups, dim=1))
    grad = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(values, wide, grad)
    (found,) = torch.autograd.grad(FixedCodes.apply(scales, codes), scales, grad.to(dtype))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_divergence_and_its_gradient(dtype: torch.dtype) -> None:
    """float16 takes PyTorch's operators, the others the kernels."""
    generator = torch.Generator().manual_seed(4)
    logits, expected = (torch.randn(7, 50, generator=generator).mul(3).to(dtype) for _ in range(2))
    wide = logits.double().requires_grad_()
    reference = F.kl_div(
        wide.log_softmax(-1), expected.double().log_softmax(-1), reduction="batchmean", log_target=True
    )
    (wanted,) = torch.autograd.grad(3 * reference, wide)
    leaf = logits.clone().requires_grad_()
    loss = Divergence.apply(leaf * 1, expected)
    (found,) = torch.autograd.grad(3 * loss, leaf)
    torch.testing.assert_close(loss.double(), reference, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        found.double(), wanted, rtol=2e-2, atol=2e-3 if dtype != torch.float32 else 1e-6
    )


def test_the_number_of_steps_may_change_on_the_way(make_pair) -> None:
    """The rates follow it: as of one that had so many from the beginning."""
    found = []
    for options, later in ((OPTIONS, 4), (DistilOptions(4, 6, 6 * 32), 4), (OPTIONS, 12)):
        student, teacher = make_pair("tiny_llama", "group64")
        distiller = Distiller(student, teacher, options, seed=1)
        distiller.num_steps = later
        for batch in IDS.split(6)[:2]:
            distiller.step(batch)
        found.append(distiller.state()["parameter.0"].clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
