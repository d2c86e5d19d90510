"""Stage 4 as a run: it learns, resumes to the bit, and refuses what cannot become a diffusion model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bitnet_arch
from bitnet_arch.diffusion_model import block_diffusion_of
from wf_formats.diffusion import BlockDiffusion
from wrinklefree.compose.composing import compose_config
from wrinklefree.config.errors import ConfigError
from wrinklefree.course import Course
from wrinklefree.objectives.weights import weight_schedule
from wrinklefree_distillation import dlm
from wrinklefree_distillation.config import DLM
from wrinklefree_distillation.diffusion_stage import block_size_of
from wrinklefree_distillation.objectives.dlm import DlmConfig, Weighting

STAGE = "training=stage4_diffusion"


def test_a_ternary_model_learns_to_denoise_and_a_resumed_run_is_the_same(
    diffuse: Any, diffuse_resumed: Any
) -> None:
    options = ["training.learning_rate=1e-2", "training.precision=bf16"]
    whole = diffuse(*options, experiment="whole")
    assert whole.code == 0
    losses = [float(row["dlm/loss_nats"]) for row in whole.rows]
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]
    final = bitnet_arch.load_checkpoint(whole.folder / "final")
    mask = final.tokenizer.mask_token_id
    assert block_diffusion_of(final.model) == BlockDiffusion(8, mask, token_shift=True)
    assert final.model.get_input_embeddings().weight.shape[0] == mask + 1
    assert bitnet_arch.read_meta(whole.folder / "final")["stage"] == "stage4"
    again = diffuse_resumed(*options, experiment="again")
    assert again.code == 0
    assert again.rows == whole.rows
    assert again.weights == whole.weights


def test_a_dense_model_goes_on_and_text_may_name_the_mask_token(
    diffuse: Any, make_stage1: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then its result goes on with the same blocks, and is refused with others."""
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": "what <|mask|> stands for"}) + "\n")
    dense = f"training.start_from={make_stage1('model.scheme=none')}"
    options = [
        "model.scheme=none",
        f"data.sources=[{{kind: path, name: text, location: {text}}}]",
        "training.max_steps=1",
        "training.objectives.dlm.weighting=elbo",
        "training.objectives.dlm.complementary=false",
    ]
    first = diffuse(*options, dense, experiment="first")
    assert first.code == 0
    assert float(first.rows[0]["dlm/bound_nats"]) == pytest.approx(float(first.rows[0]["dlm/loss_nats"]))
    goes_on = [*options[:1], "training.max_steps=1", f"training.start_from={first.folder / 'final'}"]
    assert diffuse(*goes_on, experiment="second").code == 0
    capsys.readouterr()
    other = diffuse(*goes_on, "training.block_size=4", experiment="other")
    assert other.code == 2
    assert "of block_size 8 and token_shift True already, not of 4 and True" in capsys.readouterr().err
    assert not (other.folder / "final").exists()


def test_blocks_as_long_as_a_sequence_are_told_of_before_the_first_step(
    diffuse: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Texts that are shorter are filled up, as a decoder does it; blocks of 48 run in no engine."""
    run = diffuse("training.block_size=null", "training.sequence_length_tokens=48", "training.max_steps=1")
    assert run.code == 0
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert any("blocks have 48 tokens; the native engine runs blocks of 1, 2" in text for text in told)
    assert any("a sequence of 48 tokens is one block" in text for text in told)
    assert float(run.rows[0]["dlm/loss_nats"]) > 0


def test_an_autoregressive_model_is_refused_elsewhere(
    distil: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = distil("training.objectives.dlm={}", "training.objectives.logits_distill.weight=0")
    assert run.code == 2
    assert "objective 'dlm': the model is autoregressive" in capsys.readouterr().err
    # One that never has a weight asks nothing of the model.
    assert distil("training.objectives.dlm.weight=0", "training.max_steps=1", experiment="b").code == 0


def test_the_program_is_stage_4() -> None:
    config = compose_config(["training.start_from=x"], DLM)
    assert config == compose_config([STAGE, "training.start_from=x"])
    assert config.training.accept_from[0] == "stage3"
    assert config.training.objectives == {"dlm": DlmConfig()}
    assert block_size_of(config) == 32
    whole = compose_config([STAGE, "training.block_size=null", "training.sequence_length_tokens=48"])
    assert block_size_of(whole) == 48
    typed = compose_config(["training.objectives.dlm.weighting=elbo"], DLM).training.objectives["dlm"]
    assert typed.weighting is Weighting.elbo


def test_the_program_shows_its_own_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WF_PROG", "wf dlm")
    with pytest.raises(SystemExit, match="0"):
        dlm.main(["--help"])
    text = capsys.readouterr().out
    assert "stage 4 of training" in text
    assert "    wf dlm -e mine " in text


def test_the_recipe_leads_from_next_tokens_to_blocks() -> None:
    training = compose_config([STAGE, "experiment=block_diffusion", "training.max_steps=100"]).training
    weights = weight_schedule(training.objectives, training.curriculum, Course(100))
    phases = {"warmup": 0, "dlm_ramp": 19, "main": 30, "dlm_focus": 80}
    found = {phase: {k: v for k, v in weights(step).items() if v} for phase, step in phases.items()}
    assert found == {
        "warmup": {"continue_pretrain": 1},
        "dlm_ramp": {"continue_pretrain": pytest.approx(0.5), "dlm": pytest.approx(0.5)},
        "main": {"tcs_distill": 1},
        "dlm_focus": {"dlm": 1},
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.block_size=0"],
            r"training.block_size=0 is not possible: give a whole number, at least 1",
        ),
        (
            ["training.block_size=64", "training.sequence_length_tokens=63"],
            "training.block_size=64 and training.sequence_length_tokens=63: a sequence holds at least one",
        ),
        (["training.block_sice=4"], "Did you mean 'block_size'"),
        (["training.objectives.dlm.eps=0"], "dlm.eps=0.0 is not possible"),
        (["training.objectives.dlm.eps=0.5"], "dlm.eps=0.5 is not possible"),
        (["training.objectives.dlm.weighting=mdlm"], r"dlm: Invalid value .mdlm., expected .*uniform, elbo"),
    ],
)
def test_wrong_values_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(overrides, DLM)
