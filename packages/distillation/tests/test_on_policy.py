"""Distillation on text that the student writes: what it writes, what counts, whose step it is, resumption."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch

from wrinklefree.errors import RunError
from wrinklefree.forward import run_forward, shape_of
from wrinklefree.objectives.continue_pretrain import ContinuePretrainConfig
from wrinklefree.objectives.manager import ObjectiveManager
from wrinklefree_distillation.objectives.on_policy_distill import OnPolicyDistillConfig
from wrinklefree_distillation.own_text import OwnText, Writing, continued, laid_out, prompts_of

NAME = "training.objectives.on_policy_distill"


def _data(vocab_size: int) -> dict[str, torch.Tensor]:
    """A row of text of two documents, and one of a record with an answer and filling."""
    ids = torch.randint(1, vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[*range(7), *range(5)], [*range(9), *range(3)]])
    labels = ids.clone()
    labels[positions == 0] = -100
    labels[1, :6] = labels[1, 9:] = -100
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def test_prompts_are_beginnings_of_text_and_questions_of_records() -> None:
    data = _data(100)
    text, record = data["input_ids"].tolist()
    assert prompts_of(data, 6) == [text[:6], text[7:11], record[:6]]


def test_the_students_tokens_alone_have_labels() -> None:
    view = laid_out([([5, 6, 7, 8, 9], 2), ([3, 4, 1], 2)])
    assert view["input_ids"].tolist() == [[5, 6, 7, 8, 9], [3, 4, 1, 0, 0]]
    assert view["labels"].tolist() == [[-100, -100, 7, 8, 9], [-100, -100, 1, -100, -100]]
    assert view["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]


def test_near_temperature_0_the_student_writes_what_it_holds_most_probable(tiny_llama: Any) -> None:
    """Prompts of different lengths, each as if alone; the seed decides, and the run's generator stays."""
    student = tiny_llama().train()
    how = Writing(1, 2, 8, 5, temperature=1e-4)
    prompts = [[3, 4, 5, 6, 7, 8], [9, 10]]
    state = torch.get_rng_state()
    found = continued(student, prompts, how, "seed", torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    for prompt, (ids, num_prompt) in zip(prompts, found, strict=True):
        assert (ids[:num_prompt], num_prompt) == (prompt, len(prompt))
        with torch.no_grad():
            best = student(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        assert ids[num_prompt:] == best[num_prompt - 1 : -1]
    hot = Writing(1, 2, 8, 8, temperature=5.0)
    draw = partial(continued, student, prompts, hot, device=torch.device("cpu"))
    assert draw(seed="a") == draw(seed="a") != draw(seed="b")


def test_a_text_ends_with_the_students_own_end(tiny_llama: Any) -> None:
    student = tiny_llama()
    prompt = [[3, 4, 5]]
    how = Writing(1, 2, 8, 6, temperature=1e-4)
    ((whole, _),) = continued(student, prompt, how, "s", torch.device("cpu"))
    student.generation_config.eos_token_id = whole[5]
    ((cut, _),) = continued(student, prompt, how, "s", torch.device("cpu"))
    assert cut == whole[: whole.index(whole[5], 3) + 1]


def test_text_is_written_anew_every_so_many_steps(tiny_llama: Any) -> None:
    student = tiny_llama()
    how = Writing(every_steps=3, num_sequences=3, prompt_tokens=4, new_tokens=2, temperature=1.0)
    own = OwnText(student, how, seed=1)
    data = _data(student.config.vocab_size)
    written = []
    for step in range(7):
        own.batch(data, step)
        written.append(own.written_at)
    assert written == [0, 0, 0, 3, 3, 3, 6]


def _manager(student: Any, **options: Any) -> ObjectiveManager:
    configs = {
        "continue_pretrain": ContinuePretrainConfig(),
        "on_policy_distill": OnPolicyDistillConfig(num_sequences=3, new_tokens=4, **options),
    }
    manager = ObjectiveManager.from_config(configs)
    manager.check(shape_of(student), shape_of(student))
    manager.attach(student, 0)
    return manager


def test_a_step_is_the_students_text_or_the_data(tiny_llama: Any) -> None:
    """The share of 1000 steps, and reverse KL by hand on the student's own tokens."""
    student, teacher = tiny_llama(), tiny_llama()
    with torch.no_grad():
        teacher.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    manager = _manager(student, share=0.3)
    own = manager.objectives["on_policy_distill"]
    taken = [step for step in range(1000) if own.takes_step(step)]
    assert 250 < len(taken) < 350
    other = next(step for step in range(1000) if step not in taken)
    forwards = partial(run_forward, student), partial(run_forward, teacher)
    data = _data(student.config.vocab_size)
    assert manager.compute(data, other, *forwards).metrics.keys() == {
        "continue_pretrain/loss_nats",
        "continue_pretrain/perplexity_ratio",
    }
    result = manager.compute(data, taken[0], *forwards)
    assert not any(name.startswith("continue_pretrain") for name in result.metrics)
    values = []
    for ids, num_prompt in own.own_text.written[:2]:
        q, p = (
            m(torch.tensor([ids])).logits[0, num_prompt - 1 : -1].log_softmax(-1) for m in (student, teacher)
        )
        values += (q.exp() * (q - p)).sum(-1).tolist()
    assert result.loss.item() == pytest.approx(sum(values) / len(values), rel=1e-3)
    assert result.metrics["on_policy_distill/answer_tokens"].item() == len(values) / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, "share=1 takes every step, and leaves none to continue_pretrain"),
        ({"tokens": "every"}, "tokens=every: the loss counts the student's own tokens alone"),
    ],
)
def test_what_makes_no_sense(tiny_llama: Any, options: Any, message: str) -> None:
    from wrinklefree_distillation.tokens import Tokens

    if "tokens" in options:
        options = {"tokens": Tokens(options["tokens"])}
    with pytest.raises(RunError, match=f"'on_policy_distill': {message}"):
        _manager(tiny_llama(), **options)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.objectives.logits_distill.weight=0"], "share=0.5 leaves steps to other objectives"),
        (["distributed=fsdp", "distributed.devices=1"], "the student writes text between steps"),
        ([f"{NAME}.new_tokens=250"], "new_tokens=250 exceed the model's context of 256"),
        ([f"{NAME}.share=1.5"], "share=1.5 is not possible"),
    ],
)
def test_runs_that_are_refused(
    distil: Any, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = distil(f"{NAME}={{}}", *overrides)
    assert run.code in (1, 2)
    assert message in capsys.readouterr().err
    assert not (run.folder / "final").exists()


def test_a_run_on_its_own_text_learns_and_resumes_to_the_bit(distil: Any, resumed: Any) -> None:
    options = [
        f"{NAME}.share=0.7",
        f"{NAME}.every_steps=2",
        f"{NAME}.num_sequences=4",
        f"{NAME}.new_tokens=8",
        f"{NAME}.prompt_tokens=8",
        "training.accumulate_steps=2",
        "training.max_steps=8",
    ]
    whole, again = distil(*options, experiment="whole"), resumed(*options, experiment="again")
    assert (whole.code, again.code) == (0, 0)
    assert again.rows == whole.rows
    assert again.weights == whole.weights
    name = "on_policy_distill/divergence_nats"
    assert {bool(row.get(name)) for row in whole.rows} == {True, False}
    summary = json.loads((whole.folder / "summary.json").read_text())
    assert summary["steps"] == 8
