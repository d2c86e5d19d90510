"""The objective tcs_distill on passes, with a Markov chain as the teacher: its targets are known."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wf_formats.errors import RequestError
from wrinklefree.capture import Capture, ForwardResult, Shape, View
from wrinklefree.forward import run_forward
from wrinklefree.objectives.base import ObjectiveResult
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree.objectives.weights import ConstantWeights
from wrinklefree.predictions import DensePredictions, SparsePredictions
from wrinklefree.teachers.local import LocalTeacher
from wrinklefree_distillation import noisy_clean as nc
from wrinklefree_distillation.objectives.dlm import NOISY_CLEAN, Dlm, DlmConfig, Weighting
from wrinklefree_distillation.objectives.logits_distill import LogitsDistill, LogitsDistillConfig
from wrinklefree_distillation.objectives.tcs_distill import Target, TcsDistill, TcsDistillConfig

V, MASK = 8, 8


class Chain:
    """A first-order Markov chain as a teacher, with or without a row for the mask token."""

    def __init__(self, num_rows: int = V) -> None:
        generator = torch.Generator().manual_seed(0)
        self.log_next = (2 * torch.randn(V, V, generator=generator)).log_softmax(-1)
        self.head = torch.full((num_rows, V), 3.0)  # no outcome, however likely it would be
        self.head[:V] = self.log_next.T
        self.asked: list[View] = []

    def __call__(self, view: View, capture: Capture) -> ForwardResult:
        self.asked.append(view)
        hidden = F.one_hot(view["input_ids"], V).float()
        return ForwardResult(1, predictions=DensePredictions(hidden, self.head))

    def target(self, batch: View, at: int, sees_right: bool) -> Tensor:
        """Of the token `at` of the flattened batch, given its neighbours."""
        ids = batch["input_ids"].flatten()
        scores = self.log_next[ids[at - 1]]
        return (scores + self.log_next[:, ids[at + 1]] if sees_right else scores).softmax(-1)


class Student:
    """Hidden states that are logits, a leaf each time."""

    def __init__(self, fill: Any = None) -> None:
        self.fill, self.calls = fill, 0

    def __call__(self, view: View, capture: Capture) -> ForwardResult:
        self.calls += 1
        generator = torch.Generator().manual_seed(5)
        self.view = view
        self.hidden = torch.randn(*view["input_ids"].shape, V + 1, generator=generator)
        self.hidden[..., MASK] += 4  # the mask token is no outcome, however likely it would be
        if self.fill is not None:
            self.fill(view, self.hidden.view(-1, V + 1))
        self.hidden.requires_grad_()
        return ForwardResult(1, {1: self.hidden}, torch.eye(V + 1))


def _batch(*rows: tuple[int, ...]) -> View:
    positions = torch.tensor([[i for length in row for i in range(length)] for row in rows])
    ids = torch.randint(V, positions.shape, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}


BATCH = _batch((7, 9), (16,))


def _model(block_size: int, shift: bool) -> Any:
    settings = {"block_size": block_size, "mask_token_id": MASK, "token_shift": shift}
    head = SimpleNamespace(weight=torch.eye(V + 1))
    config = SimpleNamespace(block_diffusion=settings)
    return SimpleNamespace(config=config, get_output_embeddings=lambda: head)


def _objective(block_size: int = 4, shift: bool = True, seed: int = 0, **options: Any) -> TcsDistill:
    objective = TcsDistill(TcsDistillConfig(**options))
    objective.attach(_model(block_size, shift), seed)
    return objective


def _compute(
    objective: Any, student: Any, teacher: Any = None, batch: View = BATCH, step: int = 0
) -> ObjectiveResult:
    manager = ObjectiveManager({"one": objective}, ConstantWeights({"one": 1.0}))
    return manager.compute(batch, step, student, teacher or Chain())


def _sees_right(view: View, block_size: int, shift: bool) -> list[bool]:
    """Of each prediction, whether its noisy block shows a token to the right; plainly, token by token."""
    ids, positions = view["input_ids"].flatten().tolist(), view["position_ids"].flatten().tolist()
    found = []
    for at, half in zip(view[nc.PREDICTING].tolist(), view[nc.HALVES].tolist(), strict=True):
        place = at + int(shift)
        if half == 2:  # the clean one
            found.append(False)
            continue
        end = place + 1
        while end < len(ids) and positions[end] == positions[end - 1] + 1 and positions[end] % block_size:
            end += 1
        found.append(any(token != MASK for token in ids[place + 1 : end]))
    return found


def _targets(view: View, chain: Chain, batch: View, exact: bool, size: int, shift: bool) -> Tensor:
    """[predictions, V]; NaN where a token is the first of its document."""
    sees = _sees_right(view, size, shift) if exact else [False] * len(view[nc.PREDICTED])
    rows = [chain.target(batch, int(at), s) for at, s in zip(view[nc.PREDICTED], sees, strict=True)]
    is_first = batch["position_ids"].flatten()[view[nc.PREDICTED]] == 0
    return torch.stack(rows).masked_fill(is_first[:, None], torch.nan)


_EXACT = {"target": Target.exact, "candidates": V, "asked_share": 1.0, "window_tokens": 16}
_CASES = [
    pytest.param(target, size, shift, id=f"{target}, blocks of {size}, {'shift' if shift else 'no shift'}")
    for target, size, shift in (
        (Target.left_only, 4, True),
        (Target.exact, 4, True),
        (Target.exact, 4, False),
        (Target.exact, 16, True),
    )
]


@pytest.mark.parametrize(("target", "size", "shift"), _CASES)
def test_a_student_that_knows_the_targets_has_nothing_to_learn(
    target: Target, size: int, shift: bool
) -> None:
    """Teacher and student are aligned at every prediction: the divergence is 0 and has no gradient."""
    chain = Chain()

    def know(view: View, logits: Tensor) -> None:
        found = _targets(view, chain, BATCH, target is Target.exact, size, shift)
        known = ~found.isnan().any(-1)
        logits[view[nc.PREDICTING][known], :V] = found[known].log() + 2.5

    options = (_EXACT if target is Target.exact else {}) | {"share": 1.0}
    student = Student(know)
    found = _compute(_objective(size, shift, **options), student, chain)
    assert abs(found.metrics["one/target_nats"]) < 1e-6
    found.loss.backward()
    # A document's first token, which nobody teaches, has its cross-entropy alone.
    untaught = BATCH["position_ids"].flatten()[student.view[nc.PREDICTED]] == 0
    taught = student.hidden.grad.flatten(0, 1)[student.view[nc.PREDICTING][~untaught]]
    assert taught.abs().max() < 1e-6
    assert bool(untaught.any()) is not shift


@pytest.mark.parametrize("weighting", list(Weighting))
@pytest.mark.parametrize("exact", [False, True])
def test_loss_and_gradient_are_those_of_the_formula(weighting: Weighting, exact: bool) -> None:
    share, most = 0.2, 0.6
    options = {"weighting": weighting, "share": share, "share_when_masked": most}
    chain, student = Chain(), Student()
    found = _compute(_objective(**options, **(_EXACT if exact else {})), student, chain)
    found.loss.backward()

    view = student.view
    logits = student.hidden.detach().double().requires_grad_()
    logs = logits.flatten(0, 1)[view[nc.PREDICTING], :V].log_softmax(-1)
    crossed = -logs.gather(1, view[nc.TARGETS][:, None])[:, 0]
    target = _targets(view, chain, BATCH, exact, 4, True).double()
    divergence = (target * (target.log() - logs)).sum(-1)
    a = share + (most - share) * view[nc.PROBABILITIES]
    is_masked = view[nc.HALVES] < 2
    w = torch.ones_like(a) if weighting is Weighting.uniform else 1 / (2 * view[nc.PROBABILITIES])
    w = w.where(is_masked, 1.0)
    loss = (w * ((1 - a) * crossed + a * divergence)).sum() / (BATCH["labels"] >= 0).sum()
    loss.backward()
    torch.testing.assert_close(found.loss.double(), loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(student.hidden.grad.double(), logits.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        found.metrics["one/target_nats"].double(), divergence.mean(), rtol=1e-4, atol=1e-5
    )
    assert found.token_losses is not None
    expected = torch.zeros(32, dtype=torch.float64).index_add(0, view[nc.PREDICTED], (w * crossed).detach())
    torch.testing.assert_close(found.token_losses.values.flatten().double(), expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_at_predictions_alone() -> None:
    student = Student()
    _compute(_objective(**_EXACT), student).loss.backward()
    moved = student.hidden.grad.flatten(0, 1).abs().sum(-1) > 0
    assert moved.nonzero().squeeze(1).tolist() == student.view[nc.PREDICTING].sort().values.unique().tolist()
    assert student.hidden.grad[..., MASK].abs().max() == 0


@pytest.mark.parametrize("options", [{}, _EXACT])
def test_a_row_of_the_teachers_for_the_mask_token_is_no_outcome(options: dict[str, Any]) -> None:
    """A padded vocabulary has one, a teacher that was never converted has none."""
    losses = [_compute(_objective(**options), Student(), Chain(rows)).loss for rows in (V, V + 1)]
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)


def test_without_a_share_it_is_dlm() -> None:
    dlm = Dlm(DlmConfig())
    dlm.attach(_model(4, True), 0)
    results = [_compute(objective, Student()) for objective in (dlm, _objective(share=0.0))]
    torch.testing.assert_close(results[0].loss, results[1].loss)
    torch.testing.assert_close(results[0].token_losses.values, results[1].token_losses.values)
    for name in ("loss_nats", "bound_nats"):
        torch.testing.assert_close(*(result.metrics[f"one/{name}"] for result in results))


def test_blocks_of_one_token_are_ordinary_distillation(tiny_llama: Any) -> None:
    """All predictions are autoregressive, at the clean half: `logits_distill` of the plain batch, whose
    models have no mask token."""
    student = tiny_llama(vocab_size=V + 1, seed=1)
    teacher = LocalTeacher(tiny_llama(vocab_size=V, seed=2))

    def maskless(view: View, capture: Capture) -> ForwardResult:
        found = run_forward(student, view, capture)
        assert found.head_weight is not None
        return replace(found, head_weight=found.head_weight[:V])

    found = _compute(
        _objective(1, share=1.0, temperature=2.0), partial(run_forward, student), teacher.forward
    )
    expected = _compute(LogitsDistill(LogitsDistillConfig(temperature=2.0)), maskless, teacher.forward)
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.loss > 1e-3


def test_both_cost_one_pass_of_the_student_and_one_of_the_teacher() -> None:
    dlm, student, chain = Dlm(DlmConfig()), Student(), Chain()
    dlm.attach(_model(4, True), 0)
    both = {"dlm": dlm, "tcs": _objective()}
    ObjectiveManager(both, ConstantWeights({"dlm": 1.0, "tcs": 1.0})).compute(BATCH, 0, student, chain)
    assert student.calls == 1
    assert [view["input_ids"].shape for view in chain.asked] == [BATCH["input_ids"].shape]


def test_other_noise_than_dlms_is_refused() -> None:
    both = {"dlm": Dlm(DlmConfig()), "tcs": _objective(complementary=False)}
    message = r"dlm.complementary=True and .*tcs.complementary=False: .* give both the same"
    with pytest.raises(RequestError, match=message):
        ObjectiveManager(both, ConstantWeights({"dlm": 1.0, "tcs": 1.0}))


def test_tokens_that_are_asked_for_are_drawn_by_the_seed_and_stand_for_all() -> None:
    whole = _compute(_objective(share=1.0, **_EXACT), Student()).loss
    some = _EXACT | {"asked_share": 0.3}

    def loss(seed: int) -> float:
        """With the noise of seed 0."""
        objective = _objective(share=1.0, **some)
        view = objective.views(BATCH)[NOISY_CLEAN]
        objective.views = lambda batch: {NOISY_CLEAN: view}  # type: ignore[method-assign]
        objective.seed = seed
        return float(_compute(objective, Student()).loss.detach())

    losses = torch.tensor([loss(seed) for seed in range(60)])
    assert loss(3) == loss(3)
    assert losses.std() > 0.005
    assert abs(losses.mean() - whole.detach()) < 4 * losses.std() / 60**0.5


def test_the_teacher_is_asked_for_as_many_tokens_as_stated() -> None:
    chain, student = Chain(), Student()
    options = _EXACT | {"candidates": 3, "tail_draws": 2, "window_tokens": 2, "branch_tokens": 10**6}
    _compute(_objective(**options), student, chain)
    text, *trees = chain.asked
    assert torch.equal(text["input_ids"], BATCH["input_ids"])
    assert len(trees) == 2  # one for each row
    num_asked = sum(_sees_right(student.view, 4, True))
    tokens = sum(tree["input_ids"].shape[1] for tree in trees) - 2 * 15
    assert 5 * num_asked - 10 <= tokens <= 5 * 2 * num_asked


def test_a_teacher_of_some_ids_gives_left_targets() -> None:
    """As a server does: the likeliest, and the rest as one outcome."""
    chain = Chain()

    def sparse(view: View, capture: Capture) -> ForwardResult:
        weights, ids = chain.log_next[view["input_ids"]].exp().topk(3)
        return ForwardResult(1, predictions=SparsePredictions(ids, weights, has_tail=True))

    student = Student()
    found = _compute(_objective(share=1.0), student, sparse)
    view = student.view
    logs = student.hidden.detach().flatten(0, 1)[view[nc.PREDICTING], :V].double().log_softmax(-1)
    target = _targets(view, chain, BATCH, False, 4, True).double()
    kept, ids = target.topk(3)
    q = logs.exp().gather(1, ids)
    rest, rest_q = 1 - kept.sum(-1), 1 - q.sum(-1)
    expected = (kept * (kept / q).log()).sum(-1) + rest * (rest / rest_q).log()
    torch.testing.assert_close(
        found.metrics["one/target_nats"].double(), expected.mean(), rtol=1e-4, atol=1e-5
    )


def test_a_batch_without_labels_has_no_loss() -> None:
    batch = BATCH | {"labels": torch.full_like(BATCH["labels"], -100)}
    student = Student()
    found = _compute(_objective(**_EXACT), student, batch=batch)
    found.loss.backward()
    assert found.loss == 0
    assert student.hidden.grad.abs().max() == 0


def _shape(vocab_size: int | None, **facts: Any) -> Shape:
    return Shape(2, 8, vocab_size, 8, 8, **facts)


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        (_shape(V - 1), {}, "may lack the mask token alone"),
        (_shape(V + 2), {}, "may lack the mask token alone"),
        (_shape(V, sparse_temperature=1.0), _EXACT, "model.teacher.kind=local or target=left_only"),
        (_shape(V, knows_any_text=False), _EXACT, "model.teacher.kind=local or target=left_only"),
        (_shape(V, sparse_temperature=1.0), {"temperature": 2.0}, "targets are of temperature 1"),
        (_shape(V), _EXACT | {"temperature": 2.0}, "temperature=2 with target=exact"),
    ],
)
def test_what_cannot_be_compared_is_refused(teacher: Shape, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _objective(**options).check(_shape(V + 1), teacher)


def test_exact_targets_are_refused_where_ranks_have_parts_of_a_model() -> None:
    with pytest.raises(ValueError, match="target=left_only or distributed=ddp"):
        _objective(**_EXACT).check_sharded()
    _objective().check_sharded()
    for size in (V, V + 1, None):
        _objective().check(_shape(V + 1), _shape(size))


@pytest.mark.slow
def test_a_run_asks_the_dense_teacher_and_resumes_to_the_bit(
    diffuse: Any, diffuse_resumed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher has no mask token, in its head or its tokenizer. A run of the recipe has both
    objectives."""
    options = [
        "training.objectives.tcs_distill={target: exact, share: 0.5, asked_share: 0.3, candidates: 4}",
        "training.objectives.dlm.weight=0.5",
    ]
    whole = diffuse(*options, experiment="whole")
    assert whole.code == 0, capsys.readouterr().err
    assert all(float(row["tcs_distill/target_nats"]) > 0 for row in whole.rows)
    tcs, dlm = (float(whole.rows[0][f"{name}/loss_nats"]) for name in ("tcs_distill", "dlm"))
    assert tcs == pytest.approx(dlm, rel=1e-5)
    again = diffuse_resumed(*options, experiment="again")
    assert again.rows == whole.rows
    assert again.weights == whole.weights
