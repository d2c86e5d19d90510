"""benchmarks/ablation.py: the arms are configurations that stage 3 takes, the items are divided once."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wf_formats.errors import RequestError
from wrinklefree.compose.composing import compose_config
from wrinklefree.stages.registry import stages
from wrinklefree_distillation.options import Balance

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def module(module_of: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """module(name): a file of the benchmark, which imports those beside it."""
    monkeypatch.syspath_prepend(FOLDER)
    return lambda name: module_of(FOLDER / f"{name}.py")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with 40 training and 12 validation records."""
    for split, count in (("train", 40), ("validation", 12)):
        path = tmp_path / "data" / "eval" / "qnli" / f"{split}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        records = [{"question": f"{i}?", "sentence": f"{split} {i}", "label": i % 2} for i in range(count)]
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    return tmp_path / "data"


def test_every_arm_is_a_configuration_of_stage_3(module: Callable[[str], Any]) -> None:
    table = module("ablation_arms")
    installed = {stage.number for stage in stages()}
    for name, arm in table.ARMS.items():
        assert arm.before is None or list(table.ARMS).index(arm.before) < list(table.ARMS).index(name)
        config = compose_config(["training=stage3_distill", "model=smollm2_135m", *arm.overrides])
        terms = config.training.objectives["bitdistill"]
        assert (terms.logits.weight > 0, terms.attention.weight > 0) == (arm.logits, arm.relations)
        assert terms.task.weight > 0
        assert (terms.balance is not Balance.none) == arm.has_teacher == (terms.measure_every_steps > 0)
        assert config.training.objectives["logits_distill"].weight == 0
        start = table.STARTS[arm.start]
        assert (config.model.scheme, config.model.sub_norm) == (start.scheme, start.sub_norm)
        if arm.stages <= installed:
            stage = next(stage for stage in stages() if stage.number == start.stage)
            compose_config([f"training={stage.option}", "model=smollm2_135m", *start.model, *start.settings])


def test_items_are_divided_once(module: Callable[[str], Any], data: Path, tmp_path: Path) -> None:
    divide = module("ablation_items").divide
    items = divide("qnli", data, tmp_path / "a", 20, 10, 5)
    train = [json.loads(line)["sentence"] for line in items.train.read_text().splitlines()]
    held_out, test = (
        [json.loads(line)["sentence"] for line in gzip.decompress(path.read_bytes()).splitlines()]
        for path in (folder / "qnli" / "validation.jsonl.gz" for folder in (items.held_out, items.test))
    )
    assert [len(set(split)) for split in (train, held_out, test)] == [20, 10, 5]
    assert not set(train) & set(held_out)
    assert all(sentence.startswith("train") for sentence in train + held_out)
    assert all(sentence.startswith("validation") for sentence in test)
    again = divide("qnli", data, tmp_path / "b", 20, 10, None)
    assert again.train.read_bytes() == items.train.read_bytes()
    assert (items.num_test, again.num_test) == (5, 12)


@pytest.mark.parametrize(
    ("task", "sizes", "message"),
    [
        ("qnli", (35, 10, 5), "--items and --held-out ask for 45 items of qnli, and there are 40"),
        ("qnli", (20, 10, 13), "--eval-items ask for 13 items of qnli, and there are 12"),
        ("sst2", (20, 10, 5), "--task sst2 needs one"),
    ],
)
def test_items_that_are_not_there(
    module: Callable[[str], Any], data: Path, tmp_path: Path, task: str, sizes: Any, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        module("ablation_items").divide(task, data, tmp_path / "a", *sizes)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--arms full,bath", "there is no arm 'bath'; known: full, rounded"),
        ("--arms full --rates both=1e-4", "there is no arm 'both' among those asked for: full"),
        ("--arms full --rates fast", "--rates fast: give numbers such as 1e-4,3e-4"),
        ("--arms full --calibrated nowhere", "nowhere: there is no such folder"),
        ("--seeds one", "--seeds one: give whole numbers such as 0,1,2"),
    ],
)
def test_wrong_requests_change_nothing(
    module: Callable[[str], Any],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    message: str,
) -> None:
    output = tmp_path / "out"
    arguments = ["ablation.py", f"--data={data}", f"--output={output}", *options.split()]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        module("ablation").main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_folder_of_other_settings_is_left_as_it_is(
    module: Callable[[str], Any],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main = module("ablation")
    output = tmp_path / "out"
    arguments = [f"--data={data}", f"--output={output}", "--arms=full", "--items=20", "--held-out=5"]
    options = main._parser().parse_args(arguments)
    monkeypatch.setattr(main, "_num_steps", lambda settings, items: 3)  # asks for the packaged model
    assert main._bench(options).items.num_test == 12
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments, "--batch=2"])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 2
    assert "was made with batch=4, not 2: choose another --output" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_an_arm_that_takes_too_long_is_refused_with_what_fits(
    module: Callable[[str], Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan, runs, items = (module(f"ablation_{name}") for name in ("plan", "runs", "items"))
    divided = items.Items(tmp_path, tmp_path, tmp_path, num_test=600)
    settings = runs.Settings("qnli", None, 1000, 100, None, 512, 4, 1.0, "bf16", 20.0)
    bench = runs.Bench(tmp_path, tmp_path, divided, settings, steps=60)
    cost = plan.Cost(step_seconds=5.0, answer_seconds=0.1, runs=3, seeds=1)
    plan.check_budget(bench, {"full": cost}, 17)  # 3 x 60 x 5 s, (3 x 100 + 600) / 10 s: 15 and 1.5 minutes
    assert "15 min of training, 2 of answers" in capsys.readouterr().out
    with pytest.raises(RequestError, match="--items 566 would fit"):
        plan.check_budget(bench, {"full": cost}, 10)
    with pytest.raises(RequestError, match="give fewer --eval-items"):
        plan.check_budget(bench, {"full": cost}, 1)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_two_arms_of_a_tiny_model_end_to_end(
    module: Callable[[str], Any],
    make_dense: Any,
    byte_tokenizer: Any,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ended in the middle it goes on; called again it does nothing. Two minutes: 14 imports of PyTorch."""
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    dense = make_dense(tmp_path / "dense", byte_tokenizer(template), max_position_embeddings=1024)
    output = tmp_path / "out"
    command = [sys.executable, str(FOLDER / "ablation.py"), f"--data={data}", f"--output={output}"]
    command += [f"--model={dense}", "--items=20", "--held-out=10", "--length=256", "--batch=1"]
    command += ["--arms=full,rounded", "--rates=1e-3", "--precision=float32"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with subprocess.Popen(command) as first:
        try:
            while first.poll() is None and not list(output.glob("runs/full-*/stage3/metrics.csv")):
                time.sleep(0.2)
        finally:
            first.send_signal(signal.SIGTERM)
    assert first.returncode == 130
    assert not (output / "arms").exists()
    main = module("ablation").main
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of a process of its own, not of pytest's
    monkeypatch.setattr(sys, "argv", command[1:])
    main()
    rows = {name: json.loads((output / "arms" / f"{name}.json").read_text()) for name in ("full", "rounded")}
    assert rows["full"]["tokens"] == rows["rounded"]["tokens"] > 0
    assert rows["full"]["majority"] == 0.5
    assert rows["rounded"]["seeds"][0]["against_full"]["num_items"] == 12
    assert len(rows["full"]["seeds"][0]["curve"]) == rows["full"]["steps"]
    assert (output / "ablation.png").stat().st_size > 10_000
    logs = {path: path.stat().st_mtime_ns for path in (output / "logs").iterdir()}
    main()
    assert {path: path.stat().st_mtime_ns for path in (output / "logs").iterdir()} == logs
