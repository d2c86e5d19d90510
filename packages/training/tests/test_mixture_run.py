"""Runs whose mixture is steered: losses by source, resumption to the bit, what scoring leaves as it was."""

from __future__ import annotations

import csv
import functools
import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from wrinklefree.callbacks import Mixture, StepLog
from wrinklefree.checkpoints.store import CheckpointStore
from wrinklefree.mixture.odm import Odm
from wrinklefree.mixture.plot import mixture_figure
from wrinklefree.mixture.policy import Evidence
from wrinklefree.mixture.scoring import gradient_products, in_turn
from wrinklefree.mixture.simplex import softmax
from wrinklefree.mixture.turns import Turns
from wrinklefree.objectives.base import TokenLosses
from wrinklefree.source_losses import by_source

STEPS = ["training.max_steps=7", "training.checkpoint.every_steps=2", "training.zclip.warmup_steps=3"]
BOUNDS = ["training.mixture.floor=0.1", "training.mixture.cap=0.7"]
ODM = ["training.mixture.policy=odm", "training.mixture.every_steps=1", *BOUNDS]
"""With three sources its first three turns explore alone."""
NAMES = ("squares", "letters", "noise")


def _write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three sources of long documents, and a probe like the first of them."""
    folder, draw = tmp_path_factory.mktemp("mixture"), random.Random(0)
    texts = {
        "squares": [f"{i} squared is {i * i}, cubed {i**3}. " * 4 for i in range(40)],
        "letters": ["abc def ghi jkl mno pqr stu vwx yz " * (3 + i % 3) + str(i) for i in range(40)],
        "noise": ["".join(chr(draw.randint(33, 126)) for _ in range(120)) for _ in range(40)],
        "probe": [f"{i} squared is {i * i}, cubed {i**3}. " * 4 for i in range(100, 104)],
    }
    return {name: _write(folder / f"{name}.jsonl", found) for name, found in texts.items()}


@pytest.fixture(scope="module")
def sources(files: dict[str, Path]) -> str:
    listed = ", ".join(f"{{kind: path, name: {name}, location: {files[name]}}}" for name in NAMES)
    return f"data.sources=[{listed}]"


@pytest.fixture(scope="module")
def influence(files: dict[str, Path]) -> list[str]:
    probe = f"{{kind: path, name: probe, location: {files['probe']}}}"
    return [
        "training.mixture.policy=influence",
        "training.mixture.first_step=1",
        "training.mixture.every_steps=2",
        *BOUNDS,
        f"training.mixture.influence.probes=[{probe}]",
        "training.mixture.influence.sequences=4",
        "training.mixture.influence.sketch_size=512",
    ]


def rows(run: Any) -> list[dict[str, str]]:
    with (run.folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_picture_takes_any_names(tmp_path: Path) -> None:
    """Dollar signs are no formula, an underscore at the beginning hides nothing."""
    names = ["$a\\frac{$", "_hidden", "a/b"]
    metrics = [{"step": float(i)} | {f"mixture/{n}": 0.1 * i for n in names} for i in range(3)]
    metrics[1] |= {"influence/a/b": 0.5, "loss/a/b": 3.0, "train/loss": 2.0}
    figure = mixture_figure(metrics)
    figure.savefig(tmp_path / "mixture.png")
    assert len(figure.axes) == 3
    legend = figure.axes[0].get_legend()
    assert [text.get_text().replace("\\$", "$") for text in legend.get_texts()] == names


def test_without_evidence_weights_stay_and_that_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with objectives that compare no tokens."""
    policy = Odm(NAMES, smoothing=0.5, projected=softmax)
    mixture = Mixture(policy, {"squares": 0.5, "letters": 0.3, "noise": 0.2}, Turns(1, 1))
    monkeypatch.setattr(mixture, "_observed", lambda *_: Evidence())
    for _ in range(2):
        mixture._turn(None, None)  # type: ignore[arg-type]
    assert mixture.weights == {"squares": 0.5, "letters": 0.3, "noise": 0.2}
    assert caplog.text.count("no objective has given losses of tokens") == 1


def test_products_of_gradients_by_hand() -> None:
    """Sources of lengths 1 and 7: the mean of their squares is 25. Probes count by their weights alone."""
    of_sources = torch.tensor([[1.0, 0.0], [0.0, 7.0]])
    found = gradient_products(of_sources, torch.tensor([[0.0, 9.0], [3.0, 4.0]]), [1.0, 0.5])
    assert found.between == [[pytest.approx(1 / 25), 0.0], [0.0, pytest.approx(49 / 25)]]
    assert found.with_probes == pytest.approx([0.3 / 5, 1.4 * 7 / 5])
    nothing = gradient_products(torch.zeros(2, 2), torch.zeros(1, 2), [1.0])
    assert (nothing.between, nothing.with_probes) == ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0])


def test_each_turn_takes_others_of_a_probe() -> None:
    batches: list[Any] = ["a", "b", "c"]
    assert [in_turn(batches, 2, turn) for turn in range(3)] == [["a", "b"], ["c", "a"], ["b", "c"]]
    assert in_turn(batches, 9, 5) == batches


def mixtures(run: Any) -> list[dict[str, float]]:
    return [{name: float(row[f"mixture/{name}"]) for name in NAMES} for row in rows(run)]


def of_data(run: Any) -> tuple[int, dict[str, float]]:
    """The weights that the data of the last checkpoint got last, and their turn."""
    last = max((run.folder / "checkpoints").glob("step_*"))
    (state,) = json.loads((last / "trainer.json").read_text())["WrinkleFreeDataModule"]["ranks"]
    first, weights = state["weights"][-1]
    return first, weights


def test_sums_by_source_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    losses = TokenLosses(torch.rand(3, 8), torch.rand(3, 8) < 0.7)
    source_ids = torch.randint(-1, 3, (3, 8))
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for value, counted, source in zip(*(x.flatten() for x in (*losses, source_ids)), strict=True):
        if counted and source >= 0:
            expected[:, source] += torch.stack([value.double(), torch.tensor(1.0, dtype=torch.float64)])
    torch.testing.assert_close(by_source(losses, source_ids, 3), expected)


@pytest.fixture(scope="module")
def fixed(make_cli: Any, sources: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One short sequence a step: as a rule it is of one source."""
    cli = make_cli(tmp_path_factory.mktemp("fixed"))
    return cli("stage2_pretrain", *STEPS, sources, "training.batch_size=1")


def test_losses_of_sources_are_logged_in_any_run_with_several(fixed: Any) -> None:
    assert fixed.code == 0
    alone = set()
    for row in rows(fixed):
        found = {name: float(row[f"loss/{name}"]) for name in NAMES if row.get(f"loss/{name}")}
        assert found
        loss = float(row["train/loss"])
        assert min(found.values()) <= loss * (1 + 1e-6)
        assert max(found.values()) >= loss * (1 - 1e-6)
        alone |= {name for name in found if len(found) == 1}
    assert alone, "rows with one source have its loss alone"
    assert not any(name.startswith(("mixture/", "influence/")) for name in rows(fixed)[0])
    assert not (fixed.folder / "mixture.png").exists()


def test_scoring_leaves_a_run_as_it_was_to_the_bit(
    cli_from_stage1: Any, sources: str, influence: list[str], fixed: Any
) -> None:
    """Random state, gradients, optimizer, mode, data: with a step size of 0 all is that of the fixed run."""
    still = [*STEPS, sources, "training.batch_size=1", *influence, "training.mixture.influence.step_size=0"]
    run = cli_from_stage1("stage2_pretrain", *still)
    assert run.code == 0
    assert run.losses == fixed.losses
    assert run.weights == fixed.weights
    assert [mixture for mixture in mixtures(run) if mixture != mixtures(run)[0]] == []
    scored = [float(row["influence/noise"]) for row in rows(run) if row.get("influence/noise")]
    assert len(scored) == 7, "known from the first step on"
    assert all(scored)


@pytest.mark.slow
@pytest.mark.parametrize(
    "others",
    [
        "training.precision=bf16 training.gradient_checkpointing=true optimizer.state=bf16 "
        "training.lambda_warmup_steps=3 training.ema_decay=0.5",
        "model.scheme=group64 training.qk_clip.threshold=1e-3",
    ],
)
def test_scoring_leaves_other_runs_as_they_were(
    cli: Any, sources: str, influence: list[str], others: str
) -> None:
    """Other precisions, and hooks that are on during a step."""
    options = [*STEPS, sources, "training.accept_from=[stage1]", *others.split()]
    still = "training.mixture.influence.step_size=0"
    found = []
    for experiment, steered in (("fixed", []), ("still", [*influence, still])):
        model = [option for option in others.split() if option.startswith("model.")]
        assert cli("stage1_subln", *model, experiment=experiment).code == 0
        found.append(cli("stage2_pretrain", *options, *steered, experiment=experiment))
    one, two = found
    assert (one.code, two.code) == (0, 0)
    assert two.losses == one.losses
    assert two.weights == one.weights
    for key in {"train/largest_logit"} & rows(one)[0].keys():
        assert [row[key] for row in rows(two)] == [row[key] for row in rows(one)]


def kill_after_a_turn() -> None:
    """In this process, when step 5 has been logged: the checkpoint is of step 4, which ended with a turn."""
    original = StepLog.on_step_end

    def patched(self: StepLog, trainer: Any, module: Any, step: int) -> None:
        original(self, trainer, module, step)
        if step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    StepLog.on_step_end = patched  # type: ignore[method-assign]


@pytest.mark.parametrize("policy", [pytest.param("odm", marks=pytest.mark.slow), "influence"])
def test_a_resumed_run_is_bit_equal_also_with_data_workers(
    cli_from_stage1: Any, sources: str, influence: list[str], policy: str
) -> None:
    steered = ODM if policy == "odm" else influence
    options = [*STEPS, sources, *steered, "logging.every_steps=3", "data.num_workers=1"]
    start = functools.partial(cli_from_stage1.in_child, "stage2_pretrain", *options)
    whole = start(experiment="whole")
    assert whole.code == 0
    assert start(experiment="killed", before=kill_after_a_turn).code == -signal.SIGKILL
    folder = cli_from_stage1.folder("stage2_pretrain", "killed")
    assert CheckpointStore(folder / "checkpoints").steps()[-1] == 4
    resumed = start(experiment="killed")
    assert resumed.code == 0
    assert resumed.weights == whole.weights
    names = [name for name in rows(whole)[-1] if not name.startswith("train/") or name == "train/loss"]
    for found, expected in zip(rows(resumed), rows(whole), strict=True):
        assert {name: found[name] for name in names} == {name: expected[name] for name in names}
    assert mixtures(whole)[-1] != mixtures(whole)[0], "the policy has moved"
    for mixture in mixtures(whole):
        assert sum(mixture.values()) == pytest.approx(1, abs=1e-12)
        assert all(0.1 <= weight <= 0.7 for weight in mixture.values())
    assert (whole.folder / "mixture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["fresh", "position"])
def test_scoring_goes_on_in_changed_data_as_the_run_does(
    cli_from_stage1: Any, files: dict[str, Path], influence: list[str], choice: str, tmp_path: Path
) -> None:
    own = {name: Path(shutil.copy(files[name], tmp_path)) for name in NAMES}
    listed = ", ".join(f"{{kind: path, name: {name}, location: {path}}}" for name, path in own.items())
    options = [*STEPS, f"data.sources=[{listed}]", *influence]
    start = functools.partial(cli_from_stage1, "stage2_pretrain", *options, experiment="changed")
    killed = cli_from_stage1.in_child(
        "stage2_pretrain", *options, experiment="changed", before=kill_after_a_turn
    )
    assert killed.code == -signal.SIGKILL
    with own["noise"].open("a") as file:
        file.write(json.dumps({"text": "more noise " * 30}) + "\n")
    assert start().code == 1
    resumed = start(f"resume.data={choice}")
    assert resumed.code == 0
    assert len(mixtures(resumed)) == 7
    assert of_data(resumed)[1] == pytest.approx(mixtures(resumed)[-1])


def test_weights_reach_the_data(cli_from_stage1: Any, sources: str) -> None:
    """The loader's state in the last checkpoint has what was decided last; a run begins within its bounds."""
    lopsided = sources.replace("name: noise", "name: noise, weight: 18")
    late = "training.mixture.every_steps=6"
    run = cli_from_stage1("stage2_pretrain", *STEPS, lopsided, *ODM, late, "data.num_workers=1")
    assert run.code == 0
    assert mixtures(run)[0] == pytest.approx({"squares": 0.15, "letters": 0.15, "noise": 0.7})
    first, weights = of_data(run)
    assert weights == pytest.approx(mixtures(run)[-1])
    assert first == 6 + 2, "two batches had been asked for"


def test_documents_of_a_probe_are_not_trained_on_and_other_probes_are_another_run(
    cli_from_stage1: Any,
    sources: str,
    influence: list[str],
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All of `squares` but one document are the probe's. Muon has no second moments, which is told once."""
    texts = [json.loads(line)["text"] for line in files["squares"].read_text().splitlines()]
    probe = _write(tmp_path / "probe.jsonl", [f" {text.upper()}\n" for text in texts[1:]])
    probes = f"training.mixture.influence.probes=[{{kind: path, name: probe, location: {probe}}}]"
    options = [*STEPS, sources, *influence, probes, "optimizer=muon"]
    with caplog.at_level("WARNING", "wrinklefree"):
        run = cli_from_stage1("stage2_pretrain", *options)
    assert run.code == 0
    assert caplog.text.count("keeps no second moments") == 1
    skipped = run.summary["bad_records"]["squares"]
    assert skipped["records"] >= 39
    assert "squares.jsonl, line" in skipped["first"][0]
    assert run.summary["bad_records"]["letters"]["records"] == 0
    _write(probe, ["something else " * 9])
    assert cli_from_stage1("stage2_pretrain", *options).code == 1
    assert "content.probe.probe: the files are others" in capsys.readouterr().err
    probe.unlink()
    assert cli_from_stage1("stage2_pretrain", *options, experiment="missing").code == 2
    assert f"{probe} does not exist" in capsys.readouterr().err


def test_matrices_that_are_not_there_are_refused_before_the_first_step(
    cli_from_stage1: Any, sources: str, influence: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = "training.mixture.influence.matrices=['*.mlp.donw_proj.weight']"
    run = cli_from_stage1("stage2_pretrain", *STEPS, sources, *influence, wrong)
    assert run.code == 2
    assert "no matrix is named '*.mlp.donw_proj.weight'" in capsys.readouterr().err
    assert not (run.folder / "metrics.csv").exists()


def note_weights() -> None:
    """In each rank, what its loader has after every turn."""
    original = Mixture.on_step_end

    def patched(self: Mixture, trainer: Any, module: Any, step: int) -> None:
        original(self, trainer, module, step)
        state = trainer.datamodule._in_turn._loaders[0].state_dict()
        place = Path(trainer.default_root_dir) / f"weights_of_rank_{trainer.global_rank}.jsonl"
        with place.open("a") as file:
            file.write(json.dumps([step, state["weights"][-1][1]]) + "\n")

    Mixture.on_step_end = patched  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["odm", "influence"])
def test_two_processes_have_the_same_weights_as_one(
    cli_from_stage1: Any, sources: str, influence: list[str], policy: str
) -> None:
    steered = ODM if policy == "odm" else influence
    options = [*STEPS, sources, *steered, "training.batch_size=1"]
    alone = cli_from_stage1(
        "stage2_pretrain", *options, "training.accumulate_steps=2", "data.num_shares=2", experiment="alone"
    )
    both = cli_from_stage1.in_ranks(
        "stage2_pretrain", *options, "distributed=ddp", experiment="both", before=note_weights
    )
    assert (alone.code, both.code) == (0, 0)
    noted = [(both.folder / f"weights_of_rank_{rank}.jsonl").read_text() for rank in (0, 1)]
    assert noted[0] == noted[1]
    assert len(noted[0].splitlines()) == 7
    for one, two in zip(mixtures(alone), mixtures(both), strict=True):
        assert one == pytest.approx(two, abs=1e-3)
    for one, two in zip(rows(alone), rows(both), strict=True):
        for name in NAMES:
            losses = [row.get(f"loss/{name}") or "nan" for row in (one, two)]
            assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-3, nan_ok=True)
    assert mixtures(both)[-1] != mixtures(both)[0]


def test_losses_of_tokens_are_those_of_pytorch() -> None:
    from wrinklefree.cross_entropy import cross_entropy_of_tokens

    torch.manual_seed(1)
    hidden, weight = torch.randn(2, 6, 8, requires_grad=True), torch.randn(11, 8)
    for share in (0.9, 0.3):  # the rows of the second are computed alone
        labels = torch.where(torch.rand(2, 6) < share, torch.randint(0, 11, (2, 6)), -100)
        loss, (values, counted) = cross_entropy_of_tokens(hidden, weight, labels, 4)
        logits = (hidden[:, :-1] @ weight.T).transpose(1, 2)
        expected = F.pad(F.cross_entropy(logits, labels[:, 1:], reduction="none"), (1, 0))
        torch.testing.assert_close(values, expected.detach())
        assert torch.equal(counted, F.pad(labels[:, 1:] != -100, (1, 0)))
        torch.testing.assert_close(values.sum() / counted.sum(), loss.detach())
        assert not values.requires_grad
