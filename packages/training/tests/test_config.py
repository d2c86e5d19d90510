from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import data_handler
from wf_formats.packaged import ModelSource
from wrinklefree.config import (
    AdamW8bitConfig,
    AdamWConfig,
    ConfigError,
    LayerWeighting,
    LayerwiseConfig,
    MuonConfig,
    Stage,
    compose_config,
    schema,
)
from wrinklefree.config.compose import APP_CONFIGS, SHARED_CONFIGS
from wrinklefree.config.lengths import run_lengths, schedule_phases
from wrinklefree.train import main

YAML_FILES = sorted([*SHARED_CONFIGS.glob("*/*.yaml"), *APP_CONFIGS.glob("*/*.yaml")])


def _base(group: str) -> list[str]:
    return [] if group == "training" else ["training=stage2_pretrain"]


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_yaml_composes(path: Path) -> None:
    group = path.parent.name
    compose_config([*_base(group), f"{group}={path.stem}"])


def test_the_promised_options_exist() -> None:
    models = ["smollm2_135m", "smollm2_360m", "smollm2_1_7b", "qwen3_0_6b", "qwen3_4b", "llama3_2_1b"]
    assert {p.stem for p in YAML_FILES if p.parent.name == "model"} == set(models)
    stages = {p.stem for p in YAML_FILES if p.parent.name == "training"}
    assert stages == {"stage1_subln", "stage1_5_calibrate", "stage1_9_layerwise", "stage2_pretrain"}


def test_groups_give_typed_objects() -> None:
    config = compose_config(["training=stage1_9_layerwise", "optimizer=muon"])
    assert config.model.source is ModelSource.packaged
    assert config.training.stage is Stage.stage1_9
    assert isinstance(config.optimizer, MuonConfig)
    layerwise = config.training.objectives["layerwise"]
    assert layerwise == LayerwiseConfig(weight=1.0, layer_weighting=LayerWeighting.progressive)


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamWConfig), ("adamw_8bit", AdamW8bitConfig)])
def test_optimizer_schema(name: str, kind: type) -> None:
    assert type(compose_config([*_base(""), f"optimizer={name}"]).optimizer) is kind


def test_an_objective_can_be_added_on_the_command_line() -> None:
    config = compose_config([*_base(""), "training.objectives.layerwise.weight=0.5"])
    assert config.training.objectives["layerwise"] == LayerwiseConfig(weight=0.5)


@pytest.mark.parametrize(
    ("override", "named", "suggestion"),
    [
        ("training.max_step=3", "training.max_step", "max_steps"),
        ("+training.schedule.warm_up=3", "training.schedule.warm_up", "warmup"),
        ("++optimizer.weight_decy=3", "optimizer.weight_decy", "weight_decay"),
        ("modle=smollm2_135m", "modle", "model"),
        ("model=smollm2_135", "model/smollm2_135", "smollm2_135m"),
        ("training.objectives.layrwise.weight=1", "layrwise", "layerwise"),
        ("training.objectives.layerwise.wieght=1", "wieght", "weight"),
        ("data.sources=[{kind: path, name: a, locaton: b}]", "locaton", "location"),
    ],
)
def test_unknown_keys_are_named(override: str, named: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_config([*_base(""), override])
    assert named in str(error.value)
    assert f"Did you mean '{suggestion}'?" in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.batch_size=many"], "training.batch_size"),
        (["training.schedule.kind=cosin"], "constant, cosine, wsd"),
        (["training.objectives.layerwise.layer_weighting=linear"], "uniform, progressive"),
        (["training.max_tokens=100"], "exactly one of"),
        (["training.max_steps=null"], "exactly one of"),
        (["training.objectives.continue_pretrain.weight=0"], "weight above 0"),
        (["data.sources=[]"], "data.sources is empty"),
        (["training.checkpoint.keep_last=0"], "keep_last"),
        (["training.schedule.warmup=-3"], "training.schedule.warmup=-3 is neither"),
        (["training.max_steps=9", "training.schedule.decay=10"], "exceed the run's 9 steps"),
    ],
)
def test_wrong_values_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config([*_base(""), *overrides])


@pytest.mark.parametrize("stage", ["stage1_9_layerwise", "stage2_pretrain"])
@pytest.mark.parametrize("max_steps", [1, 2, 200])
def test_short_runs_need_no_other_schedule(stage: str, max_steps: int) -> None:
    config = compose_config([f"training={stage}", f"training.max_steps={max_steps}"])
    phases = schedule_phases(config.training.schedule, run_lengths(config))
    assert phases.warmup_steps == max_steps // 50
    assert phases.decay_steps == (max_steps // 5 if stage == "stage2_pretrain" else 0)


def test_a_missing_stage_lists_the_stages() -> None:
    with pytest.raises(ConfigError, match="stage2_pretrain"):
        compose_config([])


def test_command_line_reports_configuration_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training=stage2_pretrain", "training.max_step=1"]) == 2
    assert "Did you mean 'max_steps'?" in capsys.readouterr().err


def test_command_line_prints_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "training=stage2_pretrain", "training.max_steps=77"]) == 0
    assert "max_steps: 77" in capsys.readouterr().out


def test_source_schema_mirrors_data_handler() -> None:
    ours = {f.name for f in dataclasses.fields(schema.SourceConfig)}
    theirs = {f.name for f in dataclasses.fields(data_handler.SourceConfig)}
    assert ours == theirs
