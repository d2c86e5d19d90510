"""Stage 3 as a run: it learns, resumes to the bit, and refuses what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bitnet_arch
from wrinklefree.compose.composing import compose_config
from wrinklefree.config.errors import ConfigError
from wrinklefree_distillation.config import DISTILL
from wrinklefree_distillation.objectives.logits_distill import LogitsDistillConfig
from wrinklefree_distillation.options import Divergence

LOGITS = "training.objectives.logits_distill"


def test_a_student_comes_nearer_to_its_teacher_and_a_resumed_run_is_the_same(
    distil: Any, resumed: Any
) -> None:
    options = ["training.learning_rate=1e-3", "training.precision=bf16", "training.accumulate_steps=2"]
    whole = distil(*options, experiment="whole")
    assert whole.code == 0
    divergences = [float(row["logits_distill/divergence_nats"]) for row in whole.rows]
    assert len(divergences) == 6
    assert divergences[-1] < 0.8 * divergences[0]
    assert bitnet_arch.read_meta(whole.folder / "final")["stage"] == "stage3"
    again = resumed(*options, experiment="again")
    assert again.code == 0
    assert again.rows == whole.rows
    assert again.weights == whole.weights


def test_a_tuned_dense_model_teaches(distil: Any, make_stage1: Any) -> None:
    dense = ["model.scheme=none", f"student.checkpoint_path={make_stage1('model.scheme=none')}"]
    task = [f"{LOGITS}.weight=0", "training.objectives.continue_pretrain={}", "training.learning_rate=1e-2"]
    tuned = distil(*dense, *task, experiment="tuned")
    assert tuned.code == 0
    teacher = ["model.teacher.source=path", f"model.teacher.name={tuned.folder / 'final'}"]
    runs = [distil(*teacher, experiment="taught"), distil(experiment="original")]
    assert [run.code for run in runs] == [0, 0]
    from_tuned, from_original = (float(run.rows[0]["logits_distill/divergence_nats"]) for run in runs)
    assert from_tuned > 2 * from_original  # the student was made from the original
    itself = distil(
        f"student.checkpoint_path={tuned.folder / 'final'}", *dense[:1], *teacher, experiment="self"
    )
    assert float(itself.rows[0]["logits_distill/divergence_nats"]) < 1e-6


def test_the_checkpoint_path_is_the_trainers_key() -> None:
    config = compose_config(["student.checkpoint_path=/some where/it's"], DISTILL)
    assert config == compose_config(["training=stage3_distill", "training.start_from=/some where/it's"])
    assert config.training.accept_from == ["stage2_5", "stage2", "stage1_9", "stage1_5", "stage1"]
    assert config.training.objectives == {"logits_distill": LogitsDistillConfig()}


def test_options_of_objectives_are_typed() -> None:
    config = compose_config([f"{LOGITS}.divergence=skew_reverse", f"{LOGITS}.temperature=5"], DISTILL)
    options = config.training.objectives["logits_distill"]
    assert options == LogitsDistillConfig(divergence=Divergence.skew_reverse, temperature=5.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.checkpoint=x", r"'student.checkpoint'.* Did you mean 'checkpoint_path'\?"),
        ("studend.checkpoint_path=x", r"'studend.*Did you mean 'student'"),
        (f"{LOGITS}.divergense=js", "Did you mean 'divergence'"),
        (f"{LOGITS}.beta=1", "beta=1.0 is not possible: give a finite float32 number, above 0 and below 1"),
        (f"{LOGITS}.alpha=0", "alpha=0.0 is not possible"),
        (f"{LOGITS}.temperature=0", "temperature=0.0 is not possible"),
        (f"{LOGITS}.chunk_tokens=0", "chunk_tokens=0 is not possible"),
    ],
)
def test_wrong_keys_and_values_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config([override], DISTILL)


def test_a_teacher_of_another_vocabulary(
    distil: Any, make_dense: Any, byte_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = byte_tokenizer()
    folder = make_dense(tmp_path / "teacher", tokenizer, vocab_size=len(tokenizer) + 5)
    run = distil("model.teacher.source=path", f"model.teacher.name={folder}")
    assert run.code == 1
    size = len(tokenizer)
    message = f"'logits_distill': the student's vocabulary has {size} tokens and the teacher's {size + 5}"
    assert message in capsys.readouterr().err
    assert not (run.folder / "final").exists()


def test_a_teacher_of_another_tokenizer(
    distil: Any, make_dense: Any, byte_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_dense(tmp_path / "teacher", byte_tokenizer())
    stored = json.loads((file := folder / "tokenizer.json").read_text())
    ids = stored["model"]["vocab"]
    ids["A"], ids["B"] = ids["B"], ids["A"]
    file.write_text(json.dumps(stored))
    assert distil("model.teacher.source=path", f"model.teacher.name={folder}").code == 1
    assert f"id {ids['B']} is 'A' for the student and 'B' for the teacher" in capsys.readouterr().err
