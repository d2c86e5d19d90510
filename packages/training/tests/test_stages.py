"""The stages through the command line: hand-over, completion, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import bitnet_arch
from wrinklefree import train
from wrinklefree.checkpoints import lightning_io
from wrinklefree.checkpoints.manifest import manifest_digest
from wrinklefree.checkpoints.store import CheckpointStore
from wrinklefree.config.root import TrainConfig
from wrinklefree.run_folder import RunFolder
from wrinklefree.stages.conversion import DenseModel, run_conversion

STEPS = ["training.max_steps=3", "training.checkpoint.every_steps=1"]
STAGE2 = [*STEPS, "training.schedule.decay=1"]


def test_stages_hand_over(cli: Any, dense_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("stage1_subln").code == 0
    aligned = cli("stage1_9_layerwise", *STEPS)
    trained = cli("stage2_pretrain", *STAGE2)
    assert (aligned.code, trained.code) == (0, 0)
    for run, stage in ((aligned, "stage1_9"), (trained, "stage2")):
        meta = bitnet_arch.read_meta(run.folder / "final")
        assert (meta["stage"], meta["step"]) == (stage, 3)
        assert meta["source"] == {"source": "path", "name": str(dense_dir)}
        identity = json.loads((run.folder / "run.json").read_text())
        assert meta["fingerprint"] == identity["fingerprint"]
        assert run.summary["tokens"] == 3 * 2 * 32
        assert set(run.losses) == {1, 2, 3}
    assert CheckpointStore(trained.folder / "checkpoints").steps() == [2, 3], "keep_last=2"
    stock = transformers.AutoModelForCausalLM.from_pretrained(trained.folder / "final")
    assert type(stock).__name__ == "BitNetForCausalLM"
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("summary: ")]
    assert json.loads(lines[-1].removeprefix("summary: "))["stage"] == "stage2"


def test_the_revision_of_a_model_of_the_hub_is_recorded(dense_dir: Path, tmp_path: Path) -> None:
    model, tokenizer = bitnet_arch.load_dense("path", str(dense_dir))
    nothing, meta = torch.zeros((0, 8), dtype=torch.long), {"source": {"source": "hub", "name": "org/name"}}
    dense = DenseModel(None, model, tokenizer, nothing, nothing, 0.0, revision="a" * 40)
    run_conversion(TrainConfig(), dense, tmp_path / "final", meta)
    assert bitnet_arch.read_meta(tmp_path / "final")["source"] == meta["source"] | {"revision": "a" * 40}


def test_stage1_reports_what_conversion_costs(stage1_run: Any) -> None:
    losses = stage1_run.summary["losses_nats"]
    assert losses["full_precision"] == pytest.approx(losses["dense"], abs=0.05)
    assert set(losses) == {"dense", "full_precision", "quantized"}


def test_layerwise_lowers_its_loss(cli_from_stage1: Any) -> None:
    options = ["training.max_steps=25", "training.learning_rate=3e-3"]
    losses = [float(x) for x in cli_from_stage1("stage1_9_layerwise", *options).losses.values()]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_missing_previous_stage_says_what_was_looked_for(
    cli: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("stage2_pretrain", *STAGE2, experiment="lonely").code == 1
    message = capsys.readouterr().err
    assert f"{cli.output_dir}/lonely/stage1_9/final (no run of stage1_9" in message
    assert f"{cli.output_dir}/lonely/stage1_5/final (no run of stage1_5 " in message
    assert "wf train -s 1.9 -e lonely" in message


@pytest.mark.parametrize("in_the_way", ["outputs/default", "outputs/default/stage1"])
def test_a_file_where_the_run_folder_goes_is_a_wrong_request(
    in_the_way: str, cli: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / in_the_way
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("keep")
    assert cli("stage1_subln", f"output_dir={tmp_path / 'outputs'}").code == 2
    assert f"{path} is no folder, so " in capsys.readouterr().err
    assert path.read_text() == "keep"


def test_unfinished_previous_stage_is_described(
    cli: Any, cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli_from_stage1("stage1_9_layerwise", *STEPS)
    (run.folder / "final").rename(run.folder / "hidden")
    assert cli("stage2_pretrain", *STAGE2).code == 1
    assert "not finished, its newest checkpoint is step 3" in capsys.readouterr().err


def test_stage2_may_skip_the_alignment_only_if_allowed(cli: Any) -> None:
    cli("stage1_subln")
    assert cli("stage2_pretrain", *STAGE2).code == 1
    assert cli("stage2_pretrain", *STAGE2, "training.accept_from=[stage1_9,stage1]").code == 0


@pytest.mark.parametrize(
    ("overrides", "differences", "fix"),
    [
        (
            ["model.scheme=group64", "model.sub_norm=false"],
            ["model.scheme: 'tensor' there, 'group64' now", "model.sub_norm: true there, false now"],
            "model.scheme=tensor model.sub_norm=true",
        ),
        (["model.name=/other"], ["model.name: '{dense}' there, '/other' now"], "model.name={dense}"),
        (
            ["model.source=packaged", "model.name=null"],
            ["model.source: 'path' there, 'packaged' now", "model.name: '{dense}' there, null now"],
            "model.source=path model.name={dense}",
        ),
    ],
)
@pytest.mark.parametrize("named", [True, False], ids=["start_from", "same experiment"])
def test_a_checkpoint_of_another_model_is_refused(
    make_cli: Any,
    stage1_run: Any,
    dense_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    differences: list[str],
    fix: str,
    named: bool,
) -> None:
    cli = make_cli(tmp_path, alone=not named)
    if not named:
        target = cli.folder("stage1_subln")
        target.mkdir(parents=True)
        (target / "final").symlink_to(stage1_run.folder / "final")
    assert cli("stage1_9_layerwise", *STEPS, *overrides).code == 1
    message = capsys.readouterr().err
    for difference in differences:
        assert difference.format(dense=dense_dir) in message
    assert f"Train what it holds with {fix.format(dense=dense_dir)}," in message


def test_the_same_dense_model_may_be_spelled_otherwise(
    cli_from_stage1: Any, dense_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dense_dir.parent)
    assert cli_from_stage1("stage1_9_layerwise", *STEPS, f"model.name={dense_dir.name}").code == 0


def test_a_dense_start_is_refused(
    make_cli: Any, dense_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = bitnet_arch.load_checkpoint(dense_dir)
    lightning_io.save_model_folder(checkpoint.model, checkpoint.tokenizer, tmp_path / "dense", {}, {})
    start = f"training.start_from={tmp_path / 'dense'}"
    assert make_cli(tmp_path, alone=True)("stage1_9_layerwise", *STEPS, start).code == 1
    assert "holds a dense model" in capsys.readouterr().err


def test_a_complete_run_is_not_repeated_unless_forced(
    cli_from_stage1: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    first = cli_from_stage1("stage2_pretrain", *STAGE2)
    stamp = (first.folder / "final" / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level("INFO", "wrinklefree"):
        again = cli_from_stage1("stage2_pretrain", *STAGE2, "logging.console_every_steps=3")
    assert again.code == 0
    assert f"this run is complete: {first.folder / 'final'}" in caplog.text
    assert "already complete" in capsys.readouterr().out
    assert (first.folder / "final" / "model.safetensors").stat().st_mtime_ns == stamp
    weights = first.weights
    forced = cli_from_stage1("stage2_pretrain", *STAGE2, "force=true")
    assert forced.weights == weights, "the same run gives the same weights"
    assert len(list(first.folder.parent.glob("stage2.replaced-*"))) == 1


@pytest.mark.parametrize("status", ["stopped", None])
def test_the_summary_of_a_complete_run_is_that_of_its_result(
    cli_from_stage1: Any, status: str | None
) -> None:
    """A process may be killed between `final` and summary.json, and one may have stopped before."""
    whole = cli_from_stage1("stage2_pretrain", *STAGE2)
    expected = whole.summary
    stale = whole.folder / "summary.json"
    if status is None:
        stale.unlink()
    else:
        stale.write_text(json.dumps({"status": status, "steps": 1, "last_loss": 9.0}))
    assert cli_from_stage1("stage2_pretrain", *STAGE2).code == 0
    assert whole.summary == expected
    assert (expected["status"], expected["steps"]) == ("complete", 3)


def test_the_digest_of_a_result_does_not_depend_on_its_figures(cli_from_stage1: Any) -> None:
    first = cli_from_stage1("stage2_pretrain", *STAGE2, experiment="a").folder / "final"
    second = cli_from_stage1("stage2_pretrain", *STAGE2, experiment="b").folder / "final"
    assert (first / "figures.json").read_text() != (second / "figures.json").read_text()
    assert manifest_digest(first) == manifest_digest(second)


def test_another_run_in_the_folder_is_refused(
    cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cli_from_stage1("stage2_pretrain", *STAGE2)
    changed = cli_from_stage1("stage2_pretrain", *STAGE2, "training.learning_rate=1e-5")
    assert changed.code == 1
    message = capsys.readouterr().err
    assert "training.learning_rate: 0.0001 there, 1e-05 now" in message
    assert "force=true" in message


def test_damaged_checkpoint_is_refused_and_the_previous_used_on_request(
    cli_from_stage1: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = cli_from_stage1("stage2_pretrain", *STAGE2)
    weights = whole.weights
    (whole.folder / "final").rename(whole.folder / "hidden")
    damaged = whole.folder / "checkpoints" / "step_00000003" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert cli_from_stage1("stage2_pretrain", *STAGE2).code == 1
    assert f"{damaged.parent} is damaged: optimizer.safetensors" in capsys.readouterr().err
    with caplog.at_level("INFO", "wrinklefree"):
        resumed = cli_from_stage1("stage2_pretrain", *STAGE2, "resume.allow_previous=true")
    assert "resuming from" in caplog.text
    assert resumed.weights == weights


def test_resuming_with_other_threads_warns(cli_from_stage1: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = cli_from_stage1("stage2_pretrain", *STAGE2)
    shutil.rmtree(run.folder / "final")
    identity = json.loads((run.folder / "run.json").read_text())
    identity["rounding"]["num_threads"] = 7
    (run.folder / "run.json").write_text(json.dumps(identity))
    assert cli_from_stage1("stage2_pretrain", *STAGE2).code == 0
    assert "num_threads: 7 there, 1 now" in caplog.text


def test_leftovers_are_removed(cli_from_stage1: Any) -> None:
    folder = cli_from_stage1.folder("stage2_pretrain")
    leftovers = [
        folder / ".final.tmp-0123abcd",
        folder / "checkpoints" / ".step_00000001.tmp-4567cdef",
        folder / f".final.get-{'5' * 16}",
    ]
    for leftover in leftovers:
        leftover.mkdir(parents=True)
    (folder / ".summary.json.tmp-89ab0123").write_text("")
    cli_from_stage1("stage2_pretrain", *STAGE2)
    assert not [*folder.glob(".*"), *(folder / "checkpoints").glob(".*")]


def test_hidden_files_of_others_are_no_leftovers(tmp_path: Path) -> None:
    """Nor is what a killed process had put aside before the new one was there."""
    kept = {".notes.tmp-mine", ".plan.old-2026", ".x.get-it", ".summary.json.old-01234567"}
    for name in (*kept, ".summary.json.tmp-89ab0123"):
        (tmp_path / name).write_text("")
    RunFolder(tmp_path).remove_leftovers()
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_damaged_previous_stage_is_refused(cli: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = cli("stage1_subln")
    (run.folder / "final" / "config.json").write_text("{}")
    assert cli("stage1_9_layerwise", *STEPS).code == 1
    assert "config.json has 2 bytes" in capsys.readouterr().err


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Another process holds the lock (locks of this one would not hinder it)."""
    lock = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX)"
    hold = f"{lock}; print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        yield
        holder.communicate(b"\n")


def test_two_processes_cannot_share_a_run(cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = cli_from_stage1("stage2_pretrain", *STAGE2)
    with _locked(run.folder.parent / ".stage2.lock"):
        for options in ([], ["force=true"]):
            assert cli_from_stage1("stage2_pretrain", *STAGE2, *options).code == 1
            assert "another process is training" in capsys.readouterr().err
    assert [path.name for path in run.folder.parent.iterdir() if path.is_dir()] == ["stage2"]


def test_data_that_ends_early_is_an_error(
    cli_from_stage1: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Only a few words here, enough for a handful of sequences. " * 4)
    source = f"data.sources=[{{kind: path, name: s, location: {text}, repeat: false}}]"
    run = cli_from_stage1("stage2_pretrain", source, "training.max_steps=50", *STAGE2[1:])
    assert run.code == 1
    assert "the data ended before the run's 50 batches" in capsys.readouterr().err
    assert not (run.folder / "final").exists()


def test_dirty_work_tree_warns(
    cli_from_stage1: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from wrinklefree import identity

    monkeypatch.setattr(identity, "git_state", lambda path: identity.GitState("abc", dirty=True))
    cli_from_stage1("stage2_pretrain", *STAGE2)
    assert "uncommitted changes" in caplog.text


def test_group_scheme_and_muon_train(cli: Any) -> None:
    group = ["model.scheme=group64", "model.sub_norm=false"]
    assert cli("stage1_subln", *group).code == 0
    accept = "training.accept_from=[stage1]"
    run = cli("stage2_pretrain", *STAGE2, *group, accept, "optimizer=muon")
    assert run.code == 0
    conversion = bitnet_arch.read_meta(run.folder / "final")["conversion"]
    assert (conversion["scheme"], conversion["sub_norm"]) == ("group64", False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.scheme=group32"], "model.scheme, model.sub_norm: "),
        (["model.scheme=group128", "model.sub_norm=false"], "do not divide into groups of 128"),
        (["model.source=hub", "model.name=null"], "needs a name"),
        (["model.name=/nowhere"], "/nowhere"),
    ],
)
def test_a_model_that_does_not_fit_gives_a_message(
    cli: Any, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("stage1_subln", *overrides).code == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert message in error


def test_token_budget(cli_from_stage1: Any) -> None:
    budget = ["training.max_steps=null", "training.max_tokens=200", "training.schedule.warmup=1"]
    run = cli_from_stage1("stage1_9_layerwise", *budget)
    assert run.summary["steps"] == 4, "ceil(200 / 64)"


def test_help_lists_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert "smollm2_135m" in capsys.readouterr().out


def test_a_foreign_folder_where_the_result_goes_is_refused_at_the_start(
    cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli_from_stage1("stage2_pretrain", *STEPS)
    shutil.rmtree(run.folder)
    (run.folder / "final").mkdir(parents=True)
    (run.folder / "final" / "thesis.txt").write_text("mine")
    assert cli_from_stage1("stage2_pretrain", *STEPS).code == 2
    assert "thesis.txt in it is not of a checkpoint" in capsys.readouterr().err
    assert [path.name for path in run.folder.rglob("*")] == ["final", "thesis.txt"]


def test_sequences_longer_than_the_context_are_refused(
    cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli_from_stage1("stage2_pretrain", *STEPS, "training.sequence_length_tokens=257")
    assert run.code == 2
    assert "sequence_length_tokens=257, but the model's context is 256 tokens" in capsys.readouterr().err
    assert not (run.folder / "final").exists()


def test_runs_moved_aside_in_one_second_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wf_formats.aside.time.strftime", lambda pattern: "now")
    for text in ("first", "second", "third"):
        run = RunFolder(tmp_path / "stage2")
        run.path.mkdir()
        (run.path / "run.json").write_text(text)
        run.move_aside()
    kept = {path.name: (path / "run.json").read_text() for path in tmp_path.iterdir()}
    assert kept == {
        f"stage2.replaced-now{end}": text for end, text in (("", "first"), ("-1", "second"), ("-2", "third"))
    }


def test_a_precision_that_is_slow_here_is_told(
    cli_from_stage1: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times_s = {"float32": 0.01, "bf16": 0.3, "int8": 0.005}
    monkeypatch.setattr(bitnet_arch, "product_times_s", lambda: times_s)
    told = "training.precision=bf16: its products, those in bfloat16 included, take 30 times as"
    for precision in ("float32", "int8", "bf16"):
        assert told not in caplog.text
        run = cli_from_stage1(
            "stage2_pretrain", *STAGE2, f"training.precision={precision}", experiment=precision
        )
        assert run.code == 0
    assert told in caplog.text


def test_a_ruined_result_is_told(cli_from_stage1: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = cli_from_stage1("stage2_pretrain", *STAGE2, "training.learning_rate=100")
    assert run.code == 0
    first, last = run.summary["first_loss"], run.summary["last_loss"]
    assert f"the loss has grown from {first:.4g} to {last:.4g}, so the result is worse" in caplog.text


def test_before_the_first_update_no_rate_is_at_fault(
    cli_from_stage1: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = "training.objectives.continue_pretrain.weight=1e38"
    assert cli_from_stage1("stage2_pretrain", *STAGE2, weight).code == 1
    assert "no weight has changed yet: the objectives' weights are too high" in capsys.readouterr().err
