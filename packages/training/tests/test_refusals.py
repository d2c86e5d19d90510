"""What the command line refuses before anything is begun: exit code 2, one message, nothing written."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import MISSING

from data_handler.config import SourceConfig
from wf_stores.errors import NotThereError, RefusedError, UnavailableError
from wrinklefree.compose.composing import compose_config
from wrinklefree.compose.schemas import schema_classes
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.names import MAX_NAME_BYTES
from wrinklefree.config.ranges import ANY, range_of
from wrinklefree.objectives.base import ObjectiveConfig

CHECKED_ELSEWHERE = {
    ("ScheduleConfig", "warmup"),
    ("ScheduleConfig", "decay"),
    ("PhaseConfig", "weights"),
    ("AttentionDistillConfig", "layer"),
}
"""By config/lengths.py and curriculum.py; against the models' depth. What a source takes is checked by
data_handler."""


def _number_fields() -> Iterator[tuple[type, str, type]]:
    for schema in [*schema_classes().values(), ObjectiveConfig]:
        for name, hint in typing.get_type_hints(schema).items():
            kinds = {hint, *typing.get_args(hint)} & {int, float}
            if kinds and schema is not SourceConfig and (schema.__name__, name) not in CHECKED_ELSEWHERE:
                yield schema, name, kinds.pop()


@pytest.mark.parametrize(
    ("schema", "name", "kind"), [pytest.param(*f, id=f"{f[0].__name__}.{f[1]}") for f in _number_fields()]
)
def test_every_number_states_its_range(schema: type, name: str, kind: type) -> None:
    bounds = range_of(schema, name)
    assert bounds != ANY
    assert -1 not in bounds
    default = {field.name: field.default for field in dataclasses.fields(schema)}[name]
    assert default in (None, MISSING) or default in bounds


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("2", "training.max_steps=0"),
        ("2", "training.max_steps=-1"),
        ("2", "training.learning_rate=-1e-4"),
        ("2", "training.learning_rate=nan"),
        ("2", "training.learning_rate=inf"),
        ("2", "training.batch_size=0"),
        ("2", "training.batch_size=99999999999999999999999"),
        ("2", "training.zclip.alpha=1"),
        ("2", "training.objectives.continue_pretrain.chunk_tokens=0"),
        ("2", "training.objectives.continue_pretrain.weight=-1"),
        ("2", "optimizer.beta2=1.5"),
        ("2", "logging.every_steps=0"),
        ("2", "seed=-1"),
        ("1", "training.fit.tokens=0"),
        ("1", "num_threads=0"),
        ("1.5", "training.ternarize.scale_rate=0"),
    ],
)
def test_impossible_numbers_are_named(
    main: Any, stage: str, override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-s", stage, f"output_dir={tmp_path}", override]) == 2
    message = capsys.readouterr().err
    key = override.partition("=")[0]
    assert message.startswith(f"configuration error: {key}=")
    assert " give a " in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["1e5", "true", "null", "a b=ü", "it's, (x)", "007", "[a]", "日本", "~x", "-"]
)
def test_an_experiment_is_a_name(name: str) -> None:
    assert compose_config(["training=stage1_subln", f"experiment={name}"]).experiment == name


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/b", "", " ", " a", "..", ".hidden", "a\nb", "x" * (MAX_NAME_BYTES + 1), "\udcff"],
)
def test_an_experiment_that_is_no_name_is_refused(
    main: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-s", "1", f"output_dir={tmp_path / 'out'}", f"experiment={name}"]) == 2
    assert "configuration error: experiment=" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


PATHS = [
    "/a=b/c",
    "/a,b",
    "/it's (1)",
    "~/x",
    "/[a]{b}",
    "/ü 🙂",
    "1e5",
    "a:b",
    "back\\slash",
    "/x#y",
    "null.d",
]


@pytest.mark.parametrize("path", PATHS)
def test_text_arrives_as_it_is(path: str) -> None:
    keys = [
        "model.name",
        "output_dir",
        "training.start_from",
        "model.teacher.name",
        "logging.wandb_options.entity",
    ]
    config = compose_config(["training=stage2_pretrain", *(f"{key}={path}" for key in keys)])
    for key in keys:
        assert operator.attrgetter(key)(config) == path


def test_quotes_null_and_interpolations_are_hydras() -> None:
    overrides = ["model.name=null", "output_dir='/a, b'", "training.start_from=${output_dir}/x"]
    config = compose_config(["training=stage2_pretrain", *overrides])
    assert (config.model.name, config.output_dir) == (None, "/a, b")
    assert config.training.start_from == "/a, b/x"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.max_step=3"], "Unknown key 'training.max_step'. Did you mean 'max_steps'? Known here: "),
        (["modle=x"], "Unknown key 'modle'. Did you mean 'model'? Known here: "),
        (["model=smollm2_135"], "Could not find 'model/smollm2_135'. Did you mean 'smollm2_135m'? Known: "),
        (["data.sources=[{kind:path"], "data.sources=[{kind:path: cannot be read as KEY=VALUE. Put text "),
        (["training.batch_size=many"], "training.batch_size=many:\nValue 'many' of type 'str' could not"),
        (
            ["training.stage=stage1"],
            "training.stage=stage1: choose a stage with training=stage1_subln or -s 1",
        ),
    ],
)
def test_refusals_do_not_speak_of_hydra(
    main: Any, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-s", "2", *overrides]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"configuration error: {message}")
    for noise in ("To append", "object_type", "hydra.cc", "multirun", "provider="):
        assert noise not in shown


SECRET = "hf_Zx81qLmN0pRs7TuV2wXy"


@pytest.mark.parametrize(
    "override",
    [
        f"hf_token={SECRET}",
        f"+logging.api_key={SECRET}",
        f"model={SECRET}",
        f"training.batch_size={SECRET}",
        f"data.sources=[{{kind: path, name: {SECRET}",
        f"experiment=a/{SECRET}",
    ],
)
def test_secrets_are_not_shown(main: Any, override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-s", "2", override]) == 2
    assert SECRET not in capsys.readouterr().err


def test_secrets_are_not_printed_with_the_configuration(
    main: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    location = f"https://me:{SECRET}@host/a.jsonl"
    sources = f"data.sources=[{{kind: path, name: a, location: '{location}'}}]"
    assert main(["-s", "2", "--cfg", sources]) == 0
    shown = capsys.readouterr().out
    assert SECRET not in shown
    assert "https://***@host/a.jsonl" in shown


def test_huge_numbers_and_deep_nesting_are_refused() -> None:
    for value in ("9" * 5000, "[" * 300 + "]" * 300):
        with pytest.raises(ConfigError):
            compose_config(["training=stage2_pretrain", f"training.max_steps={value}"])


def test_the_printed_configuration_can_be_read_again(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    assert main(["-s", "2", "--cfg", "distributed=ddp"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert json.loads(json.dumps(shown))["distributed"]["kind"] == "ddp"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-s", "1", "model.scheme=group32"],
            "unknown weight scheme 'group32'; known: tensor, group64, group128",
        ),
        (
            ["-s", "1", "model.source=path", "model.name=/nowhere"],
            "model.name=/nowhere: there is no such folder",
        ),
        (["-s", "1", "model.source=hub"], "model.source=hub needs a name"),
        (["-s", "2", "experiment=it's"], "Run wf train -s 1.9 -e 'it'\"'\"'s' first"),
        (["-s", "2", "training.start_from=/nowhere"], "training.start_from: there is no folder /nowhere"),
        (["-s", "2", "training.start_from=~nobody-here/x"], "training.start_from: there is no folder"),
        (["-s", "2", f"training.start_from={__file__}"], f"{__file__} is a file: give a checkpoint folder"),
        (["-s", "2", "training.start_from=/"], "/ is no checkpoint: it has no wrinklefree.json; give"),
    ],
)
def test_a_job_that_cannot_begin_is_not_described(
    main: Any, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--describe", f"output_dir={tmp_path}"]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out
    assert not list(tmp_path.iterdir())


def test_a_job_of_another_machine_is_described_without_its_files(
    main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-s", "2", "training.start_from=/outputs/mine/stage1/final", f"output_dir={tmp_path}"]
    assert main(["--describe", *arguments]) == 1
    assert main(["--describe", "--elsewhere", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "stage2"
    assert main(["--describe", "--elsewhere", "-s", "2", "training.max_step=1"]) == 2


@pytest.mark.parametrize("signal_at", ["omegaconf", "torch"])
def test_ctrl_c_while_modules_are_imported_is_one_line(signal_at: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_INTERRUPT.format(name=signal_at))
    done = subprocess.run(
        [sys.executable, "-m", "wrinklefree.train", "-s", "1", f"output_dir={tmp_path / 'out'}"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert "stopped; the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr


_INTERRUPT = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "{name}":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
"""


def test_small_moments_without_kernels_are_refused(
    main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wrinklefree.compact_adamw.kernel_for", lambda *_: None)
    overrides = [f"output_dir={tmp_path}", "optimizer.state=int8", "distributed.accelerator=cpu"]
    assert main(["-s", "2", *overrides]) == 2
    message = capsys.readouterr().err
    assert message.count("optimizer.state=int8 has kernels for whole weights on the CPU alone") == 1
    assert "Traceback" not in message
    assert not list(tmp_path.iterdir())


def test_no_name_of_a_start(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-s", "2", "--describe", "training.start_from="]) == 2
    assert "training.start_from is empty: give a checkpoint folder, or null" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefusedError("gs://b: no credentials"), 2),
        (NotThereError("gs://b: there is no bucket b"), 2),
        (UnavailableError("gs://b: no answer; try again later"), 1),
    ],
)
def test_a_start_in_a_bucket_that_may_not_be_asked_is_a_wrong_request(
    main: Any,
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("wrinklefree.uploads.start.open_store", refuse)
    assert main(["-s", "2", "--describe", "training.start_from=gs://b/mine"]) == code
    assert f"training.start_from: {error}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["run.json"], "it is the folder of a run; it holds none yet"),
        (["run.json", "final/manifest.json"], "it is the folder of a run; give its {folder}/final"),
        (
            ["run.json", "checkpoints/step_00000002/x", "checkpoints/step_00000004/x"],
            "it is the folder of a run; give its {folder}/checkpoints/step_00000004",
        ),
        (["step_00000002/x"], "it holds several; give one of them, such as {folder}/step_00000002"),
        (
            ["config.json"],
            "it is a model in Hugging Face's format; convert it with wf train -s 1 model.source=path",
        ),
        (["config.json", "wrinklefree.json"], "it is an export; give the checkpoint that it was made from"),
    ],
    ids=["run", "run with a result", "run with checkpoints", "checkpoints", "dense model", "export"],
)
def test_a_folder_that_is_no_checkpoint_is_told_by_its_kind(
    main: Any, files: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"export": {}}))
    assert main(["-s", "2", "--describe", f"training.start_from={tmp_path}"]) == 1
    expected = f"{tmp_path} is no checkpoint: {message.format(folder=tmp_path)}"
    assert expected in capsys.readouterr().err


def test_a_start_below_the_home_folder(
    main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "manifest.json").touch()
    assert main(["-s", "2", "--describe", "training.start_from=~/start"]) == 0


def test_a_decay_that_is_off_may_be_anything(main: Any, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    start = f"training.start_from={tmp_path}"
    decay = ["optimizer.weight_decay=20000", "optimizer.weight_decay_share=0"]
    assert main(["-s", "2", "--describe", start, *decay]) == 0
