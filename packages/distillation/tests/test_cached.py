"""Targets written once: unbiased, complete, found by content, refused where they do not belong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wrinklefree.compose.composing import compose_config
from wrinklefree.config.errors import ConfigError
from wrinklefree.errors import RunError
from wrinklefree.identity import RunIdentity, identify
from wrinklefree.predictions import DensePredictions, SparsePredictions
from wrinklefree_distillation import cache_teacher
from wrinklefree_distillation.config import DISTILL
from wrinklefree_distillation.losses.chunked_divergence import Comparison, chunked_divergence
from wrinklefree_distillation.losses.divergences import forward
from wrinklefree_distillation.sampling import systematic_draws
from wrinklefree_distillation.target_cache import CacheFacts, TargetCache

SIZES = [
    "distributed.accelerator=cpu",
    "training.sequence_length_tokens=32",
    "training.batch_size=2",
    "training.max_steps=6",
]


def test_the_loss_of_draws_converges_to_the_dense_one() -> None:
    """Mean over 400 times 12 draws: the loss and its gradient within 4 standard errors of the whole's."""
    torch.manual_seed(0)
    hidden, head = torch.randn(1, 4, 6), torch.randn(30, 6)
    teacher = DensePredictions(torch.randn(1, 4, 6), head)
    logits = (teacher.hidden @ head.T).flatten(0, 1)
    p = logits.softmax(-1)
    how, generator = Comparison(forward, 1.0, 8), torch.Generator().manual_seed(1)

    def run(predictions: Any) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = hidden.clone().requires_grad_()
        loss = chunked_divergence(leaf, head, predictions, torch.arange(4), how).mean
        loss.backward()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad.flatten()

    losses, gradients = [], []
    for _ in range(400):
        ids = systematic_draws(logits, 12, generator).unsqueeze(0)
        loss, gradient = run(SparsePredictions(ids, torch.full(ids.shape, 1 / 12)))
        losses.append(loss)
        gradients.append(gradient)
    expected_loss, expected = run(teacher)
    entropy = -(p * p.log()).sum(-1).mean()
    for draws, whole in ((losses, expected_loss + entropy), (gradients, expected)):
        stacked = torch.stack(draws)
        error = stacked.std(0) / len(draws) ** 0.5
        assert ((stacked.mean(0) - whole).abs() < 4 * error + 1e-6).all()


@pytest.mark.parametrize("vocab_size", [49152, 151936])
def test_ids_come_back_in_at_most_36_bytes_a_token(tmp_path: Path, vocab_size: int) -> None:
    facts = CacheFacts(1.0, 12, vocab_size, 64, "test")
    cache_teacher.atomic_write_json(tmp_path / "cache.json", cache_teacher.facts_as_json(facts))
    draws = torch.randint(0, vocab_size, (8, 64, 12))
    keys = [bytes([index] * 16) for index in range(8)]
    TargetCache(tmp_path).write(keys, draws)
    again = TargetCache(tmp_path)
    assert all(torch.equal(again.draws(key), row) for key, row in zip(keys, draws, strict=True))
    (shard,) = tmp_path.glob("*.safetensors")
    assert shard.stat().st_size <= 36 * 8 * 64 + 16 * 8 + 300
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"targets_00000\.safetensors is damaged \(.*remove it"):
        TargetCache(tmp_path)


@pytest.fixture
def targets(common: list[str], tmp_path: Path) -> Path:
    folder = tmp_path / "targets"
    assert cache_teacher.main(["--output", str(folder), "--shard-sequences", "5", *common, *SIZES]) == 0
    return folder


def _cached(folder: Path) -> list[str]:
    return ["model.teacher.kind=cached", f"model.teacher.folder={folder}"]


def test_a_run_with_cached_targets_and_one_that_was_stopped(distil: Any, resumed: Any, targets: Path) -> None:
    whole = distil(*_cached(targets), experiment="whole")
    again = resumed(*_cached(targets), experiment="again")
    assert (whole.code, again.code) == (0, 0)
    assert again.rows == whole.rows
    assert again.weights == whole.weights


def test_targets_count_by_content(targets: Path, tmp_path: Path) -> None:
    """Elsewhere it is the same run, and so it is with a cache that has grown; other draws are another one."""
    elsewhere = Path(shutil.copytree(targets, tmp_path / "elsewhere"))
    last = sorted(targets.glob("*.safetensors"))[-1]
    held_back = last.rename(tmp_path / "held_back")
    began = _identity(targets)
    held_back.rename(last)
    grown = _identity(targets)
    assert grown.fingerprint == _identity(elsewhere).fingerprint
    assert not grown.differences(began.record)
    assert grown.begun_like(began.record).fingerprint == began.fingerprint

    first = min(elsewhere.glob("*.safetensors"))
    tensors = load_file(first)
    save_file(tensors | {"draws": tensors["draws"].flip(0)}, first)
    assert _identity(elsewhere).fingerprint != grown.fingerprint
    assert list(_identity(elsewhere).differences(grown.record)) == ["content.teacher.00000"]
    facts = elsewhere / "cache.json"
    facts.write_text(facts.read_text().replace('"teacher": "', '"teacher": "another '))
    assert list(_identity(elsewhere).differences(began.record)) == [
        "content.teacher",
        "content.teacher.00000",
    ]


def test_a_finished_run_is_not_that_of_other_targets(
    distil: Any, targets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distil(*_cached(targets)).code == 0
    other = Path(shutil.copytree(targets, tmp_path / "other"))
    assert distil(*_cached(other)).code == 0, "the same cache elsewhere"
    for path in other.glob("*.safetensors"):
        tensors = load_file(path)
        save_file(tensors | {"draws": tensors["draws"].flip(-2)}, path)
    assert distil(*_cached(other)).code == 1
    assert "content.teacher.00000: the files are others" in capsys.readouterr().err


def _identity(folder: Path) -> RunIdentity:
    config = compose_config(["student.checkpoint_path=x", *_cached(folder)], DISTILL)
    return identify(config, "p", Path(__file__).parent)


def test_writing_goes_on_where_it_stopped(common: list[str], targets: Path) -> None:
    names = sorted(targets.glob("*.safetensors"))
    assert len(names) == 2
    contents = [path.read_bytes() for path in names]
    command = ["--output", str(targets), "--shard-sequences", "5", *common, *SIZES]
    for missing in names:
        missing.unlink()
        assert cache_teacher.main(command) == 0
        assert [path.read_bytes() for path in sorted(targets.glob("*.safetensors"))] == contents
    with pytest.raises(SystemExit):
        cache_teacher.main([*command, "--draws", "4"])


def test_a_run_of_no_fixed_length_cannot_be_written(
    common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = ["training.max_steps=null", "training.minutes=3"]
    with pytest.raises(SystemExit) as end:
        cache_teacher.main(["--output", str(tmp_path / "targets"), *common, *lengths])
    assert end.value.code == 1
    assert "training.minutes=3 does not say how much text the run will read" in capsys.readouterr().err
    assert not (tmp_path / "targets").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "has no targets for a sequence of this batch"),
        ("training.sequence_length_tokens=16", "training.sequence_length_tokens (it has 32)"),
        (
            "training.objectives.logits_distill.temperature=2",
            "temperature=2, and the teacher's targets are of",
        ),
        ("training.objectives.logits_distill.divergence=js", "divergence=js takes the teacher's whole"),
        ("training.objectives.attention_distill={}", "'attention_distill' wants queries, keys and values"),
        (
            "training.objectives.on_policy_distill={}",
            "'on_policy_distill': this teacher's predictions were written before",
        ),
        ("model.teacher.folder=/nowhere", "/nowhere holds no cached targets"),
    ],
)
def test_what_cached_targets_cannot_do(
    distil: Any, targets: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distil(*_cached(targets), override).code == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.teacher.folder=x", "training.max_steps=null", "training.minutes=1"],
            "training.minutes=1 with model.teacher.kind=cached",
        ),
        (
            [
                "model.teacher.folder=x",
                "training.mixture.policy=odm",
                "data.sources=[{kind: packaged, name: chat}, {kind: packaged, name: python_docs}]",
            ],
            "training.mixture.policy=odm with model.teacher.kind=cached: which text a run reads depends",
        ),
        ([], "needs model.teacher.folder=FOLDER"),
    ],
)
def test_options_that_cannot_go_together_are_refused_when_composed(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(["student.checkpoint_path=x", "model.teacher.kind=cached", *overrides], DISTILL)


def test_targets_of_another_tokenizer(distil: Any, targets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = targets / "tokenizer" / "tokenizer.json"
    text = file.read_text()
    file.write_text(text.replace('"<s>"', '"<bos>"'))
    config = targets / "tokenizer" / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"<s>"', '"<bos>"'))
    assert distil(*_cached(targets)).code == 1
    assert "'<s>' for the student and '<bos>' for the teacher" in capsys.readouterr().err
