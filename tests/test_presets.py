"""Every preset of a model has defaults with which it can be exported and served; every recipe composes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wf_formats.families.support import TARGETS, support
from wf_formats.overrides import override
from wrinklefree.compose.composing import compose_config
from wrinklefree.compose.roots import TRAIN
from wrinklefree.config.errors import ConfigError
from wrinklefree.errors import RunError
from wrinklefree.predecessor import check_start
from wrinklefree_distillation.config import DISTILL

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "packages" / "converter" / "tests" / "configs"
MODELS = {
    "smollm2_135m": "smollm2",
    "smollm2_360m": "smollm2",
    "smollm2_1_7b": "smollm2",
    "qwen3_0_6b": "qwen3",
    "qwen3_4b": "qwen3",
    "llama3_2_1b": "llama3_2",
}
"""The configuration (of its keys and kinds, not its size) that a preset's model has."""


def test_every_preset_is_listed():
    assert {path.stem for path in (ROOT / "configs" / "model").glob("*.yaml")} == MODELS.keys()


def test_every_recipe_is_tested_below():
    assert {path.stem for path in (ROOT / "configs" / "recipe").glob("*.yaml")} == {
        "block_diffusion",
        "h100_25min",
    }


@pytest.mark.parametrize("preset", MODELS)
def test_defaults_of_a_preset_work_end_to_end(preset):
    model = compose_config(["training=stage2_pretrain", f"model={preset}"]).model
    config = json.loads((PUBLISHED / f"{MODELS[preset]}.json").read_text())
    assert support(config, model.scheme, model.sub_norm) == dict.fromkeys(TARGETS)


def test_the_recipe_for_an_h100_is_taken_by_its_name():
    for root, chosen in ((TRAIN, "training=stage3_distill"), (DISTILL, "student.checkpoint_path=x")):
        config = compose_config([chosen, "experiment=h100_25min", "training.learning_rate=1e-4"], root)
        training = config.training
        assert config.experiment == "h100_25min"
        assert config.data.sources[0].name == "fineweb_edu"
        assert training.batch_size * training.accumulate_steps * training.sequence_length_tokens == 32_768
        assert training.objectives.keys() == {"logits_distill"}
        assert training.learning_rate == 1e-4, "the command line goes over a recipe"


@pytest.mark.parametrize(
    "name",
    [override("experiment", "h100_25min"), 'experiment="h100_25min"', "++experiment=h100_25min"],
    ids=["as wf train -e gives it", "double quotes", "plus"],
)
def test_a_recipe_is_taken_however_its_name_is_written(name):
    assert compose_config(["training=stage3_distill", name]).training.minutes == 24


def test_of_two_experiments_the_last_one_counts():
    names = ["experiment=h100_25min", "experiment=mine"]
    assert compose_config(["training=stage3_distill", *names]).training.minutes is None
    assert compose_config(["training=stage3_distill", *names[::-1]]).training.minutes == 24


@pytest.mark.parametrize("stage", ["stage1_subln", "stage1_5_calibrate", "stage2_pretrain"])
def test_a_recipe_is_for_its_own_stage(stage):
    with pytest.raises(ConfigError, match=f"h100_25min is a recipe of stage 3, and training={stage}"):
        compose_config([f"training={stage}", "experiment=h100_25min"])


def test_a_key_of_the_recipe_that_another_option_lacks_is_said_to_be_the_recipes():
    recipe = ["training=stage3_distill", "experiment=h100_25min"]
    with pytest.raises(ConfigError, match=r"Unknown key 'optimizer.fused'.*recipe of experiment=h100_25min"):
        compose_config([*recipe, "optimizer=muon"])
    with pytest.raises(ConfigError, match=r"Unknown key 'optimizer.fast'") as caught:
        compose_config([*recipe, "optimizer.fast=true"])
    assert "recipe" not in str(caught.value)


def test_a_recipe_has_no_stages_before_it_under_its_name(tmp_path):
    options = ["training=stage3_distill", "experiment=h100_25min", f"output_dir={tmp_path}"]
    with pytest.raises(RunError, match=r"recipe of stage3 alone: .*training.start_from=FOLDER"):
        check_start(compose_config(options))


def test_an_experiment_of_another_name_takes_no_recipe():
    assert compose_config(["training=stage3_distill", "experiment=mine"]).training.minutes is None
