"""Order, skipping, stopping and resuming of steps; report and plots; the whole of it, marked slow."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from wf_quickstart import run
from wf_quickstart.cli import app
from wf_quickstart.context import Context
from wf_quickstart.display import Display
from wf_quickstart.ending import say_ending
from wf_quickstart.errors import QuickstartError
from wf_quickstart.options import Options, parse_options
from wf_quickstart.plots import readable, write_plots
from wf_quickstart.report import report, write_report
from wf_quickstart.run import Step, plan, run_quickstart
from wf_quickstart.state import State


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"})


def test_help_has_an_example_and_imports_nothing_heavy() -> None:
    source = (
        "import sys; from wf_quickstart.cli import app\n"
        "try: app(['--help'])\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert "wf quickstart --steps 500" in done.stdout
    assert not set(done.stderr.split()) & {"torch", "matplotlib", "numpy", "transformers", "hydra"}


@pytest.fixture
def display() -> Display:
    return Display(3, Console(file=io.StringIO(), width=120))


def said(display: Display) -> str:
    return display.console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return parse_options("packaged", 2, tmp_path / "out", [])


@pytest.fixture
def fake_plan(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Two steps that write a file each; `fail` makes the second raise. Returns the list of steps run."""

    def install(fail: BaseException | None = None) -> list[str]:
        ran: list[str] = []

        def make(name: str, error: BaseException | None) -> Any:
            def step(context: Any, line: Any) -> dict[str, Any]:
                ran.append(name)
                if error is not None:
                    raise error
                (context.folder / name).write_text("made")
                line.update(1, 1, f"{name} is made")
                return {"name": name}

            return step

        steps = [
            Step("one", "First", (), ("one",), make("one", None)),
            Step("two", "Second", ("one",), ("two",), make("two", fail)),
        ]
        monkeypatch.setattr(run, "plan", lambda options: steps)
        monkeypatch.setattr(run, "_report", lambda *_: ran.append("report"))
        monkeypatch.setattr(run, "MIN_FREE_BYTES", 0)
        return ran

    return install


def test_done_steps_are_skipped_and_said(
    options: Options, display: Display, fake_plan: Callable[..., list[str]]
) -> None:
    assert fake_plan() == []
    ran = fake_plan()
    run_quickstart(options, False, display)
    assert ran == ["one", "two", "report"]
    assert "one is made" in said(display)
    run_quickstart(options, False, display)
    assert ran == ["one", "two", "report", "report"]
    assert said(display).count("already there") == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), QuickstartError("broken")])
def test_it_goes_on_where_it_was_stopped(
    error: BaseException, options: Options, display: Display, fake_plan: Callable[..., list[str]]
) -> None:
    ran = fake_plan(error)
    with pytest.raises(type(error)):
        run_quickstart(options, False, display)
    assert ran == ["one", "two"]
    ran = fake_plan()
    run_quickstart(options, False, display)
    assert ran == ["two", "report"]


def test_a_lost_output_is_made_again_with_what_needs_it(
    options: Options, display: Display, fake_plan: Callable[..., list[str]]
) -> None:
    ran = fake_plan()
    run_quickstart(options, False, display)
    (options.output / "one").unlink()
    run_quickstart(options, False, display)
    assert ran == ["one", "two", "report"] * 2


def test_a_full_disk_is_said_before_the_work(
    options: Options, display: Display, fake_plan: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = fake_plan()
    monkeypatch.setattr(run, "MIN_FREE_BYTES", 10**18)
    with pytest.raises(QuickstartError, match=r"1000000000\.0 GB are needed"):
        run_quickstart(options, False, display)
    assert ran == []


def test_ctrl_c_says_how_to_go_on(
    runner: CliRunner, fake_plan: Callable[..., list[str]], tmp_path: Path
) -> None:
    fake_plan(KeyboardInterrupt())
    result = runner.invoke(app, ["--output", str(tmp_path / "out")])
    assert result.exit_code == 130
    assert "the same command goes on from here" in result.output


def test_the_plan_needs_only_what_comes_before(options: Options) -> None:
    seen: set[str] = set()
    for step in plan(options):
        assert set(step.needs) <= seen, step.name
        seen.add(step.name)
    assert [step.name for step in plan(options) if step.name.startswith("stage")] == [
        "stage1",
        "stage1_5",
    ]


def test_with_stage_3_its_result_is_exported(tmp_path: Path) -> None:
    plain = plan(parse_options("packaged", None, tmp_path, []))
    steps = {step.name: step for step in plan(parse_options("packaged", None, tmp_path, [], distil=True))}
    assert [name for name in steps if name not in {step.name for step in plain}] == [
        "stage3",
        "eval_distilled",
    ]
    assert list(steps).index("eval_distilled") == list(steps).index("export") - 1
    assert steps["stage3"].needs == ("stage1_5",)
    assert steps["export"].needs == ("stage3",)
    assert Context(parse_options("packaged", None, tmp_path, [], distil=True)).last_stage == "stage3"


@pytest.mark.parametrize("was_distilled", [True, False])
def test_a_folder_is_with_stage_3_or_without(was_distilled: bool, tmp_path: Path) -> None:
    State(tmp_path, parse_options("packaged", 2, tmp_path, [], distil=was_distilled).identity())
    with pytest.raises(QuickstartError, match=r"distil: (true there, null|null there, true) now"):
        State(tmp_path, parse_options("packaged", 2, tmp_path, [], distil=not was_distilled).identity())


def _perplexity(value: float) -> dict[str, Any]:
    return {"perplexity": value, "bits_per_byte": 1.2, "nll": 2.6, "nll_stderr": 0.04, "num_tokens": 4096,
            "context_tokens": 512, "seconds": 9.0}  # fmt: skip


def _size(name: str, total: int, embeddings: int | None, bits: float) -> dict[str, Any]:
    return {"name": name, "total": total, "embeddings": embeddings, "bits_per_weight": bits}


@pytest.fixture
def results() -> dict[str, Any]:
    speed = {"file": "a.gguf", "prompt_tokens": 400, "generated_tokens": 64, "prompt_tokens_per_s": 225.4}
    return {
        "model": "SmolLM2-135M-Instruct",
        "folder": "outputs/quickstart",
        "options": {},
        "text": {"held_out_documents": 15, "held_out_chars": 60836, "dropped_chars": 34034},
        "perplexity": {
            "teacher": _perplexity(14.26),
            "rounded": _perplexity(1.93e8),
            "calibrated": _perplexity(612.0),
        },
        "calibration": {
            "losses_nats": {"dense": 2.355, "rounded": 19.07, "blocks": 4.91, "calibrated": 4.01},
            "steps": 40,
            "tokens": 36_864,
            "seconds": 301.4,
            "minutes": 7.5,
            "refine_steps": [64, 58],
            "block_errors": [[0.11, 0.08], [0.13, 0.1]],
            "curve": [[i + 1, 2.5 / (1 + i / 40)] for i in range(40)],
        },
        "proof": {"passed": True, "tokens": 256, "runtime": "llama.cpp", "tolerance": 0.05,
                  "weights": {"num_matrices": 210},
                  "judged": {"mean_abs_delta": 0.0021, "top1_agreement": 0.996}},
        "size": [
            _size("original, 16 bit", 269_000_000, None, 16),
            _size("original, 4 bit (GGUF)", 98_000_000, 30_100_000, 5.1),
            _size("1.58 bit (GGUF)", 83_000_000, 30_100_000, 4.0),
        ],
        "speed": {
            "original": speed | {"generation_tokens_per_s": 108.0},
            "exported": speed | {"generation_tokens_per_s": 120.9},
        },
        "engines": {
            "native": {"prompt_tokens_per_s": 900.0, "generation_tokens_per_s": 250.0},
            "llamacpp": {"prompt_tokens_per_s": 225.0, "generation_tokens_per_s": 100.0},
            "kernels": "avx2",
        },
        "answers": [{"prompt": "What?", "original": "This.", "ternary": "[the] the <b>"}],
        "seconds": [{"step": "Train", "seconds": 181.2}],
        "total_seconds": 540.0,
        "environment": {"cpu": "a processor", "cores": 2, "python": "3.11.7", "commit": None},
    }  # fmt: skip


def test_report_has_the_figures(results: dict[str, Any], tmp_path: Path) -> None:
    write_report(results, tmp_path)
    text = (tmp_path / "report.md").read_text()
    for figure in ("14.3", "1.9e8", "612", "9.0 minutes", "83.0", "| ratio | 1.00 | 1.12 |", "0.00210 nats",
                   "| native engine (avx2) | 900 | 250 |", "| ratio | 4.00 | 2.50 |",
                   "| distilled | 4.010 |", "planned into 7.5 minutes",
                   "58 to 64 steps of refinement for each of 2 blocks, 40 of distillation",
                   "relative error 0.120, then 0.090",
                   "2.26 nats apart in the first 10 steps, 1.34 in the last"):  # fmt: skip
        assert figure in text, figure
    assert "do not restore a model" in text
    assert json.loads((tmp_path / "report.json").read_text()) == results


def test_report_of_stage_3(results: dict[str, Any], tmp_path: Path, display: Display) -> None:
    assert "istillation](plots/distillation.png" not in report(results)
    results["perplexity"]["distilled"] = _perplexity(57.3)
    curve = [[i + 1, 1.5 / (1 + i / 40)] for i in range(40)]
    results["distillation"] = {"steps": 40, "tokens": 40_960, "minutes": 5.25, "curve": curve}
    text = report(results)
    for figure in ("| distilled | 57.3 | 1.200 |", "**57.3** after calibration and distillation",
                   "40 steps, planned into 5.2 minutes, 40,960 tokens",
                   "1.35 nats apart in the first 10 steps, 0.81 in the last"):  # fmt: skip
        assert figure in text, figure
    names = {path.name for path in write_plots(results, tmp_path)}
    assert "distillation.png" in names
    assert all(f"(plots/{name})" in text for name in names)
    say_ending(results, display)
    assert "calibrated 612 → distilled 57.3" in said(display)


def test_report_without_a_file_of_the_original(results: dict[str, Any], tmp_path: Path) -> None:
    results["speed"]["original"] = None
    results["size"] = results["size"][2:]
    results["answers"][0]["original"] = None
    text = report(results)
    assert "no GGUF file of the original" in text
    assert "Original:" not in text
    assert len(write_plots(results, tmp_path)) == 4


def test_report_of_the_native_engine_alone(results: dict[str, Any]) -> None:
    del results["engines"]["llamacpp"]
    assert "native engine (avx2) | 900 | 250" in report(results)


def test_report_says_when_the_proof_failed(results: dict[str, Any]) -> None:
    results["proof"]["passed"] = False
    assert "NOT PROVED" in report(results)


def test_plots_are_pictures(results: dict[str, Any], tmp_path: Path) -> None:
    paths = write_plots(results, tmp_path / "plots")
    assert {path.name for path in paths} == {"calibration.png", "perplexity.png", "size.png", "speed.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_every_picture_of_the_report_is_made(results: dict[str, Any], tmp_path: Path) -> None:
    names = {path.name for path in write_plots(results, tmp_path)}
    assert all(f"(plots/{name})" in report(results) for name in names)


def test_the_ending_shows_answers_as_they_are(results: dict[str, Any], display: Display) -> None:
    say_ending(results, display)
    text = said(display)
    assert "[the] the <b>" in text
    assert "original 14.3 → rounded 1.9e8 → calibrated 612" in text
    assert "uv run wf chat --model outputs/quickstart/export/model.gguf" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (14.26, "14.3"),
        (99.96, "100.0"),
        (1234.5, "1,230"),
        (49_346, "49,300"),
        (4.56e6, "4.6 million"),
        (1.93e8, "1.9e8"),
    ],
)
def test_readable(value: float, text: str) -> None:
    assert readable(value) == text


@pytest.fixture
def tiny_model_dir(tiny_llama: Callable[..., Any], packaged_model_dir: Path, tmp_path: Path) -> Path:
    """A random Llama of 3 million parameters with the packaged model's tokenizer."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(packaged_model_dir)
    model = tiny_llama(vocab_size=49152, hidden_size=64, intermediate_size=128, max_position_embeddings=2048)
    folder = tmp_path / "tiny model, it's"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quickstart_end_to_end(
    tiny_model_dir: Path, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every application for real; the second run does nothing but the report; other options are refused."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = tmp_path / "out"
    command = ["--model", f"path:{tiny_model_dir}", "--output", str(output)]
    first = runner.invoke(app, [*command, "--steps", "2"])
    assert first.exit_code == 0, first.output
    found = json.loads((output / "report.json").read_text())
    assert found["proof"]["passed"]
    assert found["calibration"]["steps"] == 2
    assert (
        10_000 < found["perplexity"]["teacher"]["perplexity"] < 200_000
    )  # random: near the vocabulary's size
    assert (output / "plots" / "calibration.png").is_file()
    second = runner.invoke(app, [*command, "--steps", "2"])
    assert second.output.count("already there") == 12
    assert found["engines"]["native"]["generation_tokens_per_s"] > 0
    third = runner.invoke(app, [*command, "--steps", "3"])
    assert third.exit_code == 2
    assert "steps: 2 there, 3 now" in third.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quickstart_with_stage_3(
    tiny_model_dir: Path, runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = tmp_path / "out"
    command = ["--model", f"path:{tiny_model_dir}", "--output", str(output), "--steps", "2", "--distil"]
    first = runner.invoke(app, command)
    assert first.exit_code == 0, first.output
    found = json.loads((output / "report.json").read_text())
    assert found["proof"]["passed"]
    assert [step for step, _ in found["distillation"]["curve"]] == [1, 2]
    assert found["perplexity"]["distilled"]["perplexity"] > 0
    assert (output / "plots" / "distillation.png").is_file()
    assert runner.invoke(app, command).output.count("already there") == 14
