from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

import data_handler
from wf_formats.packaged import ModelSource
from wrinklefree import train
from wrinklefree.compose.composing import compose_config
from wrinklefree.compose.recipes import GROUP as RECIPES
from wrinklefree.compose.schemas import SHARED_CONFIGS, group_options
from wrinklefree.config.data import DataConfig
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.lengths import run_lengths, schedule_phases
from wrinklefree.config.optimizer import AdamW8bitConfig, AdamWConfig, MuonConfig
from wrinklefree.objectives.continue_pretrain import ContinuePretrainConfig
from wrinklefree.objectives.layerwise import LayerWeighting, LayerwiseConfig
from wrinklefree.teachers.local import Dtype, LocalTeacherConfig

YAML_FILES = sorted(path for path in SHARED_CONFIGS.glob("*/*.yaml") if path.parent.name != RECIPES)
"""tests/test_presets.py of the workspace has the recipes, which are for one stage each."""
STAGES = [
    "stage1_subln",
    "stage1_5_calibrate",
    "stage1_9_layerwise",
    "stage2_pretrain",
    "stage2_5_correct",
]


def _base() -> list[str]:
    return ["training=stage2_pretrain"]


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_yaml_composes(path: Path) -> None:
    group = path.parent.name
    compose_config([*_base(), f"{group}={path.stem}"])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_composes(stage: str) -> None:
    assert compose_config([f"training={stage}"]).training.stage == stage.rpartition("_")[0]


def test_the_promised_options_exist() -> None:
    models = ["smollm2_135m", "smollm2_360m", "smollm2_1_7b", "qwen3_0_6b", "qwen3_4b", "llama3_2_1b"]
    assert {p.stem for p in YAML_FILES if p.parent.name == "model"} == set(models)
    assert set(group_options("training")) >= set(STAGES)


def test_groups_give_typed_objects() -> None:
    config = compose_config(["training=stage1_9_layerwise", "optimizer=muon"])
    assert config.model.source is ModelSource.packaged
    assert config.training.stage == "stage1_9"
    assert isinstance(config.optimizer, MuonConfig)
    layerwise = config.training.objectives["layerwise"]
    assert layerwise == LayerwiseConfig(weight=1.0, layer_weighting=LayerWeighting.progressive)


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamWConfig), ("adamw_8bit", AdamW8bitConfig)])
def test_optimizer_schema(name: str, kind: type) -> None:
    assert type(compose_config([*_base(), f"optimizer={name}"]).optimizer) is kind


def test_an_objective_can_be_added_on_the_command_line() -> None:
    config = compose_config([*_base(), "training.objectives.layerwise.weight=0.5"])
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
        compose_config([*_base(), override])
    assert named in str(error.value)
    assert f"Did you mean '{suggestion}'?" in str(error.value)


MINUTES = ["training.max_steps=null", "training.minutes=5"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.batch_size=many"], "training.batch_size"),
        (["training.schedule.kind=cosin"], "constant, cosine, wsd"),
        (["training.objectives.layerwise.layer_weighting=linear"], "uniform, progressive"),
        (["training.max_tokens=100"], "exactly one of"),
        (["training.max_steps=null"], "exactly one of .*: here are none"),
        (["training.minutes=5"], "training.max_steps=.* and training.minutes=5; training.max_steps=null"),
        (["training.max_steps=null", "training.minutes=0"], "training.minutes=0.0 is not possible"),
        (["training.max_steps=null", "training.minutes=1e308"], "above 0 and at most 525600"),
        (["training.max_steps=9", "training.lambda_warmup_steps=9"], "no step would be fully quantized"),
        ([*MINUTES, "training.schedule.warmup=0.9"], "exceed the run"),
        (
            [*MINUTES, "training.schedule.warmup=1.5"],
            "is neither a share",
        ),
        (["training.objectives.continue_pretrain.weight=0"], "weight above 0"),
        (["data.sources=[]"], "data.sources is empty"),
        (["training.checkpoint.keep_last=0"], "keep_last"),
        (["training.schedule.warmup=-3"], "training.schedule.warmup=-3 is neither"),
        (["optimizer.state=int4"], "float32, bf16, int8"),
        (["optimizer.state=bf16", "optimizer.fused=true"], "optimizer.state=bf16 has one of its own"),
        (["optimizer.state=int8", "distributed=fsdp"], "choose distributed=ddp, or optimizer.state=float32"),
        (["optimizer=muon", "+optimizer.state=int8"], "Unknown key 'optimizer.state'"),
        (["optimizer=adamw_8bit", "+optimizer.state=int8"], "Unknown key 'optimizer.state'"),
        (["training.max_steps=9", "training.schedule.decay=10"], "exceed the run's 9 steps"),
        (["training.learning_rate=1e39"], "training.learning_rate=1e.39 is not possible: .* at most 100"),
        (["optimizer.eps=1e300"], "optimizer.eps=1e.300 is not possible: .* at most 1"),
        (["optimizer.weight_decay=1e39"], "optimizer.weight_decay=1e.39 is not possible: .*float32"),
        (
            ["training.learning_rate=1e-3", "optimizer.weight_decay=1000"],
            "training.learning_rate=0.001 times optimizer.weight_decay=1000 .* lower optimizer.weight_decay",
        ),
        (["training.objectives.continue_pretrain.weight=1e39"], "weight=1e.39 is not possible: .*float32"),
        (["training.objectives.continue_pretrain.weight=1e-300"], "weight=1e-300 is not possible: .*float32"),
        (["training.accumulate_steps=9223372036854775807"], "accumulate_steps=.* and at most 1e.06"),
        (["training.batch_size=1000000000"], "batch_size=.* and at most 1e.06"),
    ],
)
def test_wrong_values_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config([*_base(), *overrides])


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


def test_command_line_reports_configuration_errors(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["training=stage2_pretrain", "training.max_step=1"]) == 2
    assert "Did you mean 'max_steps'?" in capsys.readouterr().err


def test_command_line_prints_the_configuration(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "training=stage2_pretrain", "training.max_steps=77"]) == 0
    assert "max_steps: 77" in capsys.readouterr().out


def test_the_source_schema_is_data_handlers() -> None:
    assert typing.get_type_hints(DataConfig)["sources"] == list[data_handler.SourceConfig]


@pytest.mark.parametrize("stage", ["stage1_subln", "stage1_5_calibrate"])
@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.learning_rate=1e-4", "learning_rate"),
        ("training.schedule.warmup=2", "schedule"),
        ("+training.max_steps=3", "max_steps"),
        ("training.objectives.layerwise.weight=1", "objectives"),
    ],
)
def test_a_key_that_the_stage_does_not_use_is_refused(stage: str, override: str, named: str) -> None:
    own = {"stage1_subln": "fit, stage", "stage1_5_calibrate": "accept_from, stage, start_from, ternarize"}
    name = stage.rpartition("_")[0]
    with pytest.raises(ConfigError) as error:
        compose_config([f"training={stage}", override])
    assert f"{named}' ({name} does not use it). Known here: {own[stage]}." in str(error.value)


@pytest.mark.parametrize("stage", ["stage1_subln", "stage1_5_calibrate"])
@pytest.mark.parametrize(
    "override", ["optimizer=muon", "optimizer.eps=1e-7", "distributed=ddp", "resume.allow_previous=true"]
)
def test_a_group_that_the_stage_does_not_use_is_refused(stage: str, override: str) -> None:
    group = override.partition("=")[0].partition(".")[0]
    with pytest.raises(ConfigError, match=rf"{stage.rpartition('_')[0]} does not use '{group}'"):
        compose_config([f"training={stage}", override])


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("stage1_subln", "++logging.wandb_options.project=mine"),
        *(
            (stage, override)
            for stage in ("stage1_subln", "stage1_5_calibrate")
            for override in (
                "data.num_workers=1",
                "logging.every_steps=5",
                "model.teacher.dtype=bfloat16",
                "model.teacher={}",
            )
        ),
    ],
)
def test_a_single_key_that_the_stage_does_not_use_is_refused(stage: str, override: str) -> None:
    key = ".".join(override.lstrip("+").partition("=")[0].split(".")[:2])
    with pytest.raises(ConfigError, match=rf"{stage.rpartition('_')[0]} does not use '{re.escape(key)}'"):
        compose_config([f"training={stage}", override])


@pytest.mark.parametrize("stage", ["stage1_subln", "stage1_5_calibrate"])
def test_keys_beside_those_that_are_refused(stage: str) -> None:
    """Quickstart's; and what a file of a group says is not asked for by the user."""
    config = compose_config([f"training={stage}", "logging.progress_bar=none", "data=fineweb_edu"])
    assert config.data.num_workers == 2


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.teacher=null", "model.teacher=null"),
        ("model.teacher=local", "model.teacher=local"),
        ("training.objectives=null", "training.objectives=null"),
        ("training.objectives=[layerwise]", "training.objectives="),
        ("training.objectives.continue_pretrain=5", "training.objectives.continue_pretrain=5"),
        ("training.objectives.continue_pretrain=null", "training.objectives.continue_pretrain=null"),
        ("training.objectives={layerwise:null}", "training.objectives.layerwise=null"),
    ],
)
def test_what_takes_options_takes_nothing_else(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(named)}.* must be options by name, such as "):
        compose_config([*_base(), override])


def test_options_can_be_given_together() -> None:
    whole = "training.objectives={layerwise:{weight:0.5},continue_pretrain:{chunk_tokens:64}}"
    config = compose_config([*_base(), whole, "model.teacher={dtype:bfloat16}", "model.teacher.name=/dense"])
    assert config.model.teacher == LocalTeacherConfig(name="/dense", dtype=Dtype.bfloat16)
    assert config.training.objectives == {
        "continue_pretrain": ContinuePretrainConfig(chunk_tokens=64),
        "layerwise": LayerwiseConfig(weight=0.5),
    }


def test_an_objective_can_be_taken_away() -> None:
    config = compose_config(
        [*_base(), "training.objectives={layerwise:{}}", "~training.objectives.continue_pretrain"]
    )
    assert config.training.objectives == {"layerwise": LayerwiseConfig()}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.accept_from=[stage1_9,stage7]"],
            "training.accept_from: unknown stage 'stage7'; known: stage1,",
        ),
        (["training.accept_from=[]"], "training.accept_from is empty: stage2 goes on from another stage"),
        (["training.stage=stage1"], "training.stage=stage1: choose a stage with training=stage1_subln"),
        (["model.teacher.kind=loca"], r"model\.teacher\.kind: unknown teacher 'loca'.*Did you mean 'local'"),
        (["model.teacher.nam=x"], "Unknown key 'nam'.*Did you mean 'name'"),
        (["model.teacher.dtype=int3"], "model.teacher: .*float32, bfloat16"),
        (["data.sources=[{kind: path, name: a}]"], "data.sources: source 'a' of kind path needs a location"),
    ],
)
def test_names_that_are_not_there(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        compose_config([*_base(), *overrides])


def test_a_teacher_is_typed_by_its_kind() -> None:
    config = compose_config([*_base(), "model.teacher.source=path", "model.teacher.name=/dense"])
    assert config.model.teacher == LocalTeacherConfig("local", ModelSource.path, "/dense")


def test_the_stage_is_chosen_by_its_number(
    main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "stage1" / "final").mkdir(parents=True)
    assert main(["-s", "1.5", "--describe", "experiment=mine", f"output_dir={tmp_path}"]) == 0
    line = capsys.readouterr().out
    assert json.loads(line) == {
        "stage": "stage1_5",
        "experiment": "mine",
        "run_folder": f"{tmp_path}/mine/stage1_5",
        "upload": None,
        "start_from": f"{tmp_path}/mine/stage1/final",
        "force": False,
    }


def test_uploads_are_described_without_looking_at_them(
    main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "stage1_5" / "final").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    arguments = ["-s", "2", "--describe", "-e", "mine", f"output_dir={tmp_path}"]
    for url, described in (("gs://bucket/runs/", "gs://bucket/runs"), ("here", f"{tmp_path}/here")):
        assert main([*arguments, f"training.checkpoint.upload={url}"]) == 0
        assert json.loads(capsys.readouterr().out)["upload"] == described
    assert main([*arguments, "training.checkpoint.upload=gx://bucket"]) == 2
    assert "training.checkpoint.upload: gx://bucket: unknown kind of store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "7"], "unknown stage '7'; known: 1, 1.5, 1.9, 2"),
        (["-s", "2", "training=stage1_subln"], "both choose the stage"),
        (["-s", "2", "-e", "one", "experiment=two"], "both name the run"),
        (["-s", "2", "--describe", "training.max_step=1"], "Did you mean 'max_steps'?"),
    ],
)
def test_wrong_command_lines(
    main: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out


def test_help_lists_the_stages_under_the_callers_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WF_PROG", "wf train")
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: wf train ")
    assert "1.9  aligns hidden states with the dense teacher; starts from stage1_5 or stage1\n" in text


_WITHOUT_TORCH = """
import sys
import wrinklefree.config.root
from wrinklefree.teachers.local import LocalTeacherConfig
from wrinklefree.train import main
for group in ("stages", "objectives", "teachers"):
    from wrinklefree.plugins import load_all
    assert load_all(f"wrinklefree.{group}")
assert main(["-s", "1.9", "--describe", f"training.start_from={sys.argv[1]}"]) == 0
assert "torch" not in sys.modules
"""


def test_configurations_are_read_without_torch(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    subprocess.run([sys.executable, "-c", _WITHOUT_TORCH, tmp_path], check=True, env=os.environ)
