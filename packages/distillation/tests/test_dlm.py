"""The objective dlm on passes: what the view shows and what the loss is, beside independent computations.

The reference goes block by block as a decoder does: finished blocks, then one block with mask tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bitnet_arch.block_masks import block_causal_mask
from wf_formats.errors import RequestError
from wrinklefree.capture import Capture, ForwardResult, View
from wrinklefree.errors import RunError
from wrinklefree.forward import run_forward
from wrinklefree.objectives.base import PLAIN, ObjectiveResult, Pass
from wrinklefree.objectives.continue_pretrain import ContinuePretrain, ContinuePretrainConfig
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree.objectives.weights import ConstantWeights
from wrinklefree_distillation import noisy_clean as nc
from wrinklefree_distillation.noise import draw_noise, noise_generator
from wrinklefree_distillation.objectives.dlm import NOISY_CLEAN, Dlm, DlmConfig, Weighting

MASK = 96
"""The last row of the vocabulary."""


@pytest.fixture(scope="module")
def make_model(tiny_llama: Callable[..., Any]) -> Callable[..., Any]:
    """make_model(block_size, token_shift): a random block-diffusion model of 96 tokens and the mask."""

    def make(block_size: int, token_shift: bool = True, **sizes: Any) -> Any:
        sizes = {"vocab_size": MASK + 1, "hidden_size": 32, "intermediate_size": 64} | sizes
        model = tiny_llama(**sizes)
        with torch.no_grad():
            for weights in model.parameters():
                weights.mul_(3)  # far from uniform predictions
        settings = {"block_size": block_size, "mask_token_id": MASK, "token_shift": token_shift}
        model.config.block_diffusion = settings
        return model

    return make


def _packed(*rows: Sequence[int]) -> View:
    """Rows of documents of these lengths, labelled as packing does it."""
    positions = torch.tensor([[i for length in row for i in range(length)] for row in rows])
    ids = torch.randint(0, MASK, positions.shape, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}


def _attached(model: Any, seed: int = 0, **options: Any) -> Dlm:
    objective = Dlm(DlmConfig(**options))
    objective.attach(model, seed)
    return objective


def _view(model: Any, batch: View, **options: Any) -> View:
    return _attached(model, **options).views(batch)[NOISY_CLEAN]


def _compute(model: Any, batch: View, step: int = 0, **options: Any) -> ObjectiveResult:
    manager = ObjectiveManager({"dlm": _attached(model, **options)}, ConstantWeights({"dlm": 1.0}))
    return manager.compute(batch, step, partial(run_forward, model), None)


def _logits(model: Any, view: View) -> Tensor:
    found = run_forward(model, view, Capture(logits=True)).logits
    assert found is not None
    return found.detach()


def _crossed(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies [...] of logits [..., vocabulary], as if there were no mask token."""
    rows = logits[..., :MASK].double().reshape(-1, MASK)
    return F.cross_entropy(rows, targets.flatten(), reduction="none").view(targets.shape)


def _documents(batch: View, block_size: int) -> list[tuple[int, int, int, int]]:
    """Row, first token, length and place in the new row of each document."""
    found = []
    for row, positions in enumerate(batch["position_ids"].tolist()):
        starts = [i for i, position in enumerate(positions) if position == 0]
        place = 0
        for start, end in zip(starts, [*starts[1:], len(positions)], strict=True):
            found.append((row, start, end - start, place))
            place += -(-(end - start) // block_size) * block_size
    return found


def _decoded_losses(model: Any, batch: View, view: View, num_noisy: int) -> Tensor:
    """The loss of each token [batch, tokens] that a decoder would have, one document and block at a time; of
    masked tokens in the noisy half that masks them."""
    settings = model.config.block_diffusion
    size, shift = settings["block_size"], int(settings["token_shift"])
    length = view["input_ids"].shape[1] // (num_noisy + 1)
    losses = torch.zeros(batch["labels"].shape, dtype=torch.float64)
    for row, start, num_tokens, place in _documents(batch, size):
        text = batch["input_ids"][row, start : start + num_tokens]
        for begin in range(0, num_tokens, size):
            finished, block = text[:begin], text[begin : begin + size]
            for half in range(num_noisy):
                at = half * length + place + begin
                noisy = view["input_ids"][row, at : at + size]
                filled = F.pad(block, (0, size - len(block)), value=MASK)
                assert ((noisy == filled) | (noisy == MASK)).all()
                ids = torch.cat([finished, noisy])[None]
                shown = {
                    "input_ids": ids,
                    "position_ids": torch.arange(ids.shape[1])[None],
                    "visible": block_causal_mask(ids.shape[1], size)[None, None],
                }
                logits = _logits(model, shown)[0]
                for i in (noisy[: len(block)] == MASK).nonzero().squeeze(1).tolist():
                    found = _crossed(logits[begin + i - shift], block[i])
                    losses[row, start + begin + i] = found
            if shift and begin:
                losses[row, start + begin] = _crossed(logits[begin - 1], block[0])
    return losses


def test_blocks_of_one_token_are_the_autoregressive_model(make_model: Any) -> None:
    model, batch = make_model(1), _packed([9, 7], [16])
    view = _view(model, batch)
    assert not (view["input_ids"] == MASK).any()
    causal = _logits(model, batch)
    for half in _logits(model, view).chunk(3, 1):
        torch.testing.assert_close(half, causal, rtol=1e-5, atol=1e-5)
    plain = run_forward(model, batch)
    assert plain.head_weight is not None
    known = ForwardResult(plain.num_layers, plain.hidden_states, plain.head_weight[:MASK])
    expected = ContinuePretrain(ContinuePretrainConfig()).compute({PLAIN: Pass(batch, known)})
    result = _compute(model, batch)
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-5, atol=0)
    assert result.metrics["dlm/bound_nats"].item() == pytest.approx(expected.loss.item(), rel=1e-5)
    torch.testing.assert_close(result.token_losses, expected.token_losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("block_size", "token_shift"), [(4, True), (4, False), (16, False)])
def test_packed_documents_are_decoded_block_by_block(
    make_model: Any, block_size: int, token_shift: bool
) -> None:
    """The last blocks are full of mask tokens, also where a block is as long as a row, and no document sees
    another."""
    model, batch = make_model(block_size, token_shift), _packed([9, 2, 5], [12, 3, 1])
    result = _compute(model, batch)
    expected = _decoded_losses(model, batch, _view(model, batch), 2)
    assert result.token_losses is not None
    torch.testing.assert_close(result.token_losses.values.double(), expected, rtol=1e-4, atol=1e-4)
    # Without the shift nothing is given, so all tokens but a document of a single one have a loss.
    counted = batch["labels"] >= 0
    if not token_shift:
        counted[:, [0, 9, 11]] |= torch.tensor([[True] * 3, [True, False, False]])
        counted[1, 12] = True
    assert torch.equal(result.token_losses.counted, counted)
    torch.testing.assert_close(result.loss.double(), expected[counted].mean(), rtol=1e-5, atol=0)


def test_one_block_is_masked_diffusion(make_model: Any) -> None:
    """MDLM, from its formula: bidirectional, each masked token by 1 / p."""
    model, batch = make_model(16, token_shift=False), _packed([16], [16], [16])
    options = {"weighting": Weighting.elbo, "complementary": False}
    view = _view(model, batch, **options)
    noisy = view["input_ids"][:, :16]
    assert torch.equal(view["input_ids"][:, 16:], batch["input_ids"])
    everyone = torch.ones(3, 1, 16, 16, dtype=torch.bool)
    shown = {"input_ids": noisy, "position_ids": batch["position_ids"], "visible": everyone}
    blocks = torch.arange(3).repeat_interleave(16)
    noise = draw_noise(blocks, 1e-3, False, _generator(batch))
    probabilities = noise.probabilities.view(3, 16)
    assert torch.equal(noisy == MASK, noise.masked.view(3, 16))
    losses = _crossed(_logits(model, shown), batch["input_ids"]) * (noisy == MASK) / probabilities
    result = _compute(model, batch, **options)
    torch.testing.assert_close(result.loss.double(), losses.sum() / (3 * 16), rtol=1e-5, atol=0)
    torch.testing.assert_close(result.metrics["dlm/bound_nats"], result.loss.detach())


def _generator(batch: View, seed: int = 0, step: int = 0) -> torch.Generator:
    return noise_generator(seed, step, batch["input_ids"])


@pytest.mark.parametrize("complementary", [True, False])
def test_weights_of_one_choice_and_of_two(make_model: Any, complementary: bool) -> None:
    model, batch = make_model(4), _packed([10, 6], [16])
    expected = _decoded_losses(
        model, batch, view := _view(model, batch, complementary=complementary), 1 + complementary
    )
    counted, first = batch["labels"] >= 0, batch["position_ids"] % 4 == 0
    length = view["input_ids"].shape[1] // (2 + complementary)
    masked = (view["input_ids"][:, : length * (1 + complementary)] == MASK).sum() - (1 + complementary) * (
        2 * length - 32
    )
    maskable = (counted & ~first).sum()
    assert masked == maskable if complementary else 0 < masked < maskable
    weights = torch.where(first, 1.0, maskable / masked)
    result = _compute(model, batch, complementary=complementary)
    assert result.token_losses is not None
    torch.testing.assert_close(result.token_losses.values.double(), expected * weights, rtol=1e-4, atol=1e-4)
    mean = result.token_losses.values[counted].mean()
    torch.testing.assert_close(result.loss, mean, rtol=1e-5, atol=0)


def test_a_later_token_leaves_earlier_blocks_alone(make_model: Any) -> None:
    model, batch = make_model(4), _packed([16])
    view = _view(model, batch)
    before = _logits(model, view)
    for changed in range(16):
        ids = view["input_ids"].clone()
        ids[:, changed::16] = (ids[:, changed::16] + 1) % MASK
        after = _logits(model, view | {"input_ids": ids})
        block = changed // 4 * 4
        for old, new in zip(before.chunk(3, 1), after.chunk(3, 1), strict=True):
            assert torch.equal(old[:, :block], new[:, :block])
            assert not torch.equal(old[:, block : block + 4], new[:, block : block + 4])


def test_the_clean_half_is_the_plain_block_causal_pass(make_model: Any) -> None:
    model, batch = make_model(4), _packed([16])
    clean = _logits(model, _view(model, batch))[:, 32:]
    visible = block_causal_mask(16, 4)[None, None]
    torch.testing.assert_close(clean, _logits(model, batch | {"visible": visible}), rtol=1e-5, atol=1e-5)


def test_the_logit_of_the_mask_token_never_counts(make_model: Any) -> None:
    model, batch = make_model(4, tie_word_embeddings=False), _packed([16])
    head = model.get_output_embeddings().weight
    before = _compute(model, batch).loss
    with torch.no_grad():
        head[MASK] = 100 * head[:MASK].abs().sum(0)
    after = _compute(model, batch).loss
    assert torch.equal(before, after)
    after.backward()
    assert not head.grad[MASK].any()
    assert head.grad[:MASK].any(1).all()


def test_prompts_are_never_masked(make_model: Any) -> None:
    """Of supervised records the answers alone have labels."""
    model, batch = make_model(4), _packed([16])
    batch["labels"][:, :10] = -100
    view = _view(model, batch)
    first, second, clean = view["input_ids"].chunk(3, 1)
    for noisy in (first, second):
        assert torch.equal(noisy[:, :10], clean[:, :10])
    masked = (first == MASK).int() + (second == MASK).int()
    assert masked.tolist() == [[0] * 10 + [1, 1, 0, 1, 1, 1]]
    assert view[nc.LABELLED].sum() == 6


def test_batches_of_a_step_are_a_mean_over_its_labels(make_model: Any) -> None:
    """As the data module weighs batches of records: one with 3 labels beside one with 9."""
    model, whole = make_model(4), _packed([16], [16])
    whole["labels"][0, :13] = whole["labels"][1, :7] = -100
    parts = [{name: values[i : i + 1] for name, values in whole.items()} for i in (0, 1)]
    results = [
        _compute(model, part | {"label_weight": torch.tensor(2 * n / 12)})
        for part, n in zip(parts, (3, 9), strict=True)
    ]
    mean = torch.stack([result.loss for result in results]).mean()
    values = torch.cat([result.token_losses.values for result in results if result.token_losses])
    torch.testing.assert_close(mean, values.sum() / 12, rtol=1e-5, atol=0)


def test_a_batch_without_labels(make_model: Any) -> None:
    model, batch = make_model(4), _packed([16])
    batch["labels"][:] = -100
    result = _compute(model, batch)
    result.loss.backward()
    assert result.loss == 0
    assert all(not weights.grad.any() for weights in model.parameters())


def test_noise_is_that_of_seed_step_and_batch(make_model: Any) -> None:
    """Whatever was drawn before, and on whichever process; nobody else's numbers change."""
    model, batch, other = make_model(4), _packed([64]), _packed([32, 32])
    state = torch.get_rng_state()
    objective = _attached(model)
    shown = {}
    for step in (0, 1):
        objective.at_step(step)
        shown[step] = objective.views(batch)[NOISY_CLEAN]["input_ids"]
        objective.at_step(step)
        assert torch.equal(objective.views(batch)[NOISY_CLEAN]["input_ids"], shown[step])
    assert not torch.equal(shown[0], shown[1])
    resumed = _attached(model)
    resumed.at_step(1)
    resumed.views(other)
    assert torch.equal(resumed.views(batch)[NOISY_CLEAN]["input_ids"], shown[1])
    assert not torch.equal(_attached(model, seed=1).views(batch)[NOISY_CLEAN]["input_ids"], shown[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("complementary", [True, False])
def test_times_of_a_batch_are_spread_evenly(complementary: bool) -> None:
    blocks = torch.arange(100).repeat_interleave(50)
    noise = draw_noise(blocks, 0.01, complementary, torch.Generator().manual_seed(3))
    first = noise.probabilities[0].view(100, 50)
    assert torch.equal(first, first[:, :1].expand(-1, 50))
    ascending = first[:, 0].sort().values
    most = 0.99 if complementary else 1.0
    torch.testing.assert_close(ascending.diff(), torch.full((99,), (most - 0.01) / 100))
    assert not torch.equal(first[:, 0], ascending)
    assert ascending[0] >= 0.01
    assert ascending[-1] <= most
    share = noise.masked[0].view(100, 50).float().mean(1)
    assert (share - first[:, 0]).abs().max() < 0.25  # 3.5 standard deviations of 50 draws
    assert (share - first[:, 0]).mean().abs() < 0.02
    if complementary:
        assert torch.equal(noise.masked[0], ~noise.masked[1])
        torch.testing.assert_close(noise.probabilities.sum(0), torch.ones(5000))


def test_rows_have_few_shapes() -> None:
    """A sixteenth of a row more at most, where documents are whole blocks."""
    widths = {nc._rounded_up(needed, 32, 1024) for needed in range(1024, 1400, 32)}
    assert widths == {1024, 1088, 1152, 1216, 1280, 1344, 1408}
    assert nc._rounded_up(65, 4, 64) == 68


def test_what_cannot_be_is_named(make_model: Any) -> None:
    model, batch = make_model(17), _packed([16])
    with pytest.raises(RunError, match=r"16 tokens are shorter than .* blocks of 17.*length_tokens=17"):
        _view(model, batch)
    model = make_model(4)
    batch["input_ids"][0, 3] = MASK
    with pytest.raises(RunError, match=r"the text holds the mask token \(id 96\)"):
        _view(model, batch)
    model.config.block_diffusion["mask_token_id"] = MASK + 1
    with pytest.raises(RequestError, match=r"the mask token is id 97, and the vocabulary has 97 tokens"):
        _attached(model)
    del model.config.block_diffusion
    with pytest.raises(RequestError, match=r"'dlm': the model is autoregressive.*wf train -s 4"):
        _attached(model)
