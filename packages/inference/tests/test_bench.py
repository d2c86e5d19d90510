"""The benchmark: its arithmetic, its processes with llama.cpp, and the native engine where it is built."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from wf_formats import environment
from wrinklefree_inference.bench import report, session
from wrinklefree_inference.bench.plan import BenchOptions, EngineResult, Test, parse_numbers
from wrinklefree_inference.bench.runners import seconds_of
from wrinklefree_inference.bench.worker import memory_bytes
from wrinklefree_inference.cli import app
from wrinklefree_inference.errors import EngineError

run = CliRunner().invoke
SHORT = "--prompt-tokens 8 --generate-tokens 3 --repeats 2 --batch 1,2 --threads 1"
PROMPT, GENERATE, PARALLEL = Test("prompt", 8), Test("generate", 3), Test("generate", 3, 2)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory, workspace_root: Path) -> Path:
    """Two small BitNet layers of random ternary weights in TQ2_0, which every engine here reads."""
    path = tmp_path_factory.mktemp("random") / "random.gguf"
    script = workspace_root / "packages/kernels/benchmarks/random_model.py"
    subprocess.run([sys.executable, str(script), "random", "--output", str(path)], check=True)
    return path


class CountingRunner:
    """Records what a test feeds; its next token is one more than the last."""

    vocab_size = 100

    def __init__(self) -> None:
        self.facts: dict[str, object] = {}
        self.steps: list[list[int]] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def step(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        self.steps.append([len(part) for part in tokens])
        return np.array([part[-1] + 1 for part in tokens], np.int32)


def test_names_are_those_of_llama_bench():
    deep = Test("prompt", 8, depth=64), Test("generate", 3, 2, 4096)
    names = [test.name for test in (PROMPT, GENERATE, PARALLEL, *deep)]
    assert names == ["pp8", "tg3", "tg3 x2", "pp8 @ d64", "tg3 x2 @ d4096"]


def test_prompts_go_in_chunks():
    runner = CountingRunner()
    assert seconds_of(runner, Test("prompt", 1100)) > 0
    assert runner.steps == [[512], [512], [76]]
    assert runner.resets == 1


def test_sequences_generate_together_after_a_short_prompt():
    runner = CountingRunner()
    assert seconds_of(runner, Test("generate", 5, 3)) > 0
    assert runner.steps == [[8, 8, 8]] + [[1, 1, 1]] * 5


@pytest.mark.parametrize(
    ("test", "steps"),
    [
        (Test("prompt", 600, depth=700), [[512], [188], [512], [88]]),
        (Test("generate", 2, 3, 200), [[170] * 3, [30] * 3, [1] * 3, [1] * 3]),
    ],
)
def test_sequences_have_their_depth_before_a_test(test: Test, steps: list[list[int]]):
    """Read in pieces of 512 tokens of all sequences together, and once more for each run."""
    runner = CountingRunner()
    for run in (1, 2):
        assert seconds_of(runner, test) > 0
        assert runner.steps == steps * run
        assert runner.resets == run


def test_only_the_test_is_timed():
    class SlowStart(CountingRunner):
        def step(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
            if sum(len(part) for part in tokens) > 1:
                time.sleep(0.05)
            return super().step(tokens)

    assert seconds_of(SlowStart(), Test("generate", 1, depth=2000)) < 0.05


def test_plan_lists_tests_and_room():
    plan = BenchOptions(Path("m.gguf"), 128, 64, batch="1,16")
    assert [test.name for test in plan.tests] == ["pp128", "tg64", "tg64 x16"]
    assert (plan.context_tokens, plan.num_sequences) == (128, 16)
    assert BenchOptions(Path("m.gguf"), 0, 64).context_tokens == 72
    assert [test.name for test in BenchOptions(Path("m.gguf"), 128, 0).tests] == ["pp128"]
    deep = BenchOptions(Path("m.gguf"), 128, 64, batch="1", depth="0,4096")
    assert [test.name for test in deep.tests] == ["pp128", "tg64", "pp128 @ d4096", "tg64 @ d4096"]
    assert deep.context_tokens == 4096 + 128
    with pytest.raises(ValueError, match="nothing to measure"):
        BenchOptions(Path("m.gguf"), 0, 0)


@pytest.mark.parametrize(("text", "expected"), [("1", (1,)), ("1, 16", (1, 16)), ("4,4,1", (4, 1))])
def test_lists_of_numbers(text: str, expected: tuple[int, ...]):
    assert parse_numbers("--batch", text, 1, 16) == expected


@pytest.mark.parametrize("text", ["", "0", "1,", "a", "-1", "1;2", "2000", "9" * 5000])
def test_bad_lists_of_numbers(text: str):
    with pytest.raises(ValueError, match="--batch takes numbers from 1 to 1024"):
        parse_numbers("--batch", text, 1, 1024)


def test_medians_and_ratios():
    fast = EngineResult("native", runs_s={GENERATE: [0.5, 0.1, 0.2], PARALLEL: [0.2]})
    slow = EngineResult("llamacpp", runs_s={GENERATE: [0.6, 0.3, 0.6], PARALLEL: [0.4]})
    assert fast.tokens_per_s(GENERATE) == pytest.approx(3 / 0.2)
    assert fast.tokens_per_s(PARALLEL) == pytest.approx(6 / 0.2)
    assert report.ratio(GENERATE, [fast, slow]) == pytest.approx(3)
    assert report.ratio(GENERATE, [fast]) is None
    assert fast.tokens_per_s(PROMPT) is None


def test_table_shows_speeds_ratio_memory_and_refusals(tmp_path: Path):
    model = tmp_path / "m.gguf"
    model.write_bytes(bytes(1_000_000))
    plan = BenchOptions(model, 0, 3, repeats=2, batch="1", num_threads=2)
    fast = EngineResult(
        "native", 0.1, {GENERATE: [0.1, 0.1]}, {"rss": 1_100_000}, {"kernels": {"isa": "avx9"}}
    )
    slow = EngineResult("llamacpp", 0.2, {GENERATE: [0.2, 0.2]}, {"rss": 2_000_000})
    text = "\n".join(report.table(plan, [fast, slow]))
    for expected in [
        "m.gguf: 1 MB; 2 threads of",
        "avx9",
        "30.0 ± 0.0",
        "15.0 ± 0.0",
        "2.00x",
        "1.10 x file",
    ]:
        assert expected in text
    refused = EngineResult("llamacpp", error="llama.cpp refused m.gguf: because")
    text = "\n".join(report.table(plan, [fast, refused]))
    assert "llama.cpp was not measured: llama.cpp refused m.gguf: because" in text
    assert "ratio" not in text


def test_a_busy_machine_is_told(tmp_path: Path):
    plan = BenchOptions(tmp_path, 0, 3)
    assert not [line for line in report.table(plan, [], 0.05) if "quiet" in line]
    assert [line for line in report.table(plan, [], 1.26) if "kept 1.3 cores busy meanwhile" in line]


def test_time_of_own_children_is_not_others():
    with environment.OtherProcesses() as others:
        subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    # A machine counts in ticks of 10 ms: a short while on a busy one may come out a little too large.
    assert 0 <= others.cores <= 1.25 * len(os.sched_getaffinity(0))
    stat = "cpu  10 1 5 900 7 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert environment.busy_ticks(stat) == [10, 1, 5, 900, 7, 2, 3, 4]


def test_memory_is_read_from_the_status_page():
    status = (
        "Name:\tpython\nVmHWM:\t   20 kB\nVmRSS:\t  10 kB\nRssAnon:\t 4 kB\nRssFile:\t 6 kB\nThreads:\t1\n"
    )
    assert memory_bytes(status) == {"peak_rss": 20480, "rss": 10240, "anonymous": 4096, "file": 6144}


def test_llamacpp_is_measured_in_its_process(random_model: Path, tmp_path: Path):
    out = tmp_path / "speed.json"
    result = run(app, f"bench --model {random_model} --engine llamacpp --json {out} --depth 0,40 {SHORT}")
    assert result.exit_code == 0, result.output
    assert "tg3 x2" in result.stdout
    found = json.loads(out.read_text())
    tests = found["engines"]["llamacpp"]["tests"]
    assert list(tests) == ["pp8", "tg3", "tg3 x2", "pp8 @ d40", "tg3 @ d40", "tg3 x2 @ d40"]
    assert all(len(test["runs_tokens_per_s"]) == 2 for test in tests.values())
    assert found["engines"]["llamacpp"]["memory_bytes"]["rss"] > 1e6
    assert found["model_bytes"] == random_model.stat().st_size
    assert found["hardware"]["cores"] >= 1
    assert found["other_processes_cores"] >= 0
    assert found["versions"]["xllamacpp"]


@pytest.mark.skipif(
    importlib.util.find_spec("ternary_kernels") is None, reason="ternary_kernels is not built here"
)
def test_engines_take_turns(random_model: Path, tmp_path: Path):
    out = tmp_path / "speed.json"
    result = run(app, f"bench --model {random_model} --kv-cache-type int8 --json {out} {SHORT}")
    assert result.exit_code == 0, result.output
    turns = [line.split(": ") for line in result.stderr.splitlines() if "/2" in line]
    assert [engine for _, engine in turns] == ["native", "llamacpp"] * 3 + ["llamacpp", "native"] * 3
    found = json.loads(out.read_text())
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert found["engines"]["native"]["kernels"]["isa"]
    assert [engine["cache_type"] for engine in found["engines"].values()] == ["int8", "f16"]
    assert "ratio" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model /nowhere/x.gguf", "there is no file or folder /nowhere/x.gguf"),
        (f"--model {__file__} --engine magic", "--engine takes native or llamacpp, got 'magic'"),
        (f"--model {__file__} --batch x", "--batch takes numbers"),
        (f"--model {__file__} --depth=-1", "--depth takes numbers from 0 to 1048576 with commas"),
        (f"--model {__file__} --prompt-tokens 0 --generate-tokens 0", "nothing to measure"),
    ],
)
def test_errors_are_one_line(arguments: str, message: str):
    result = run(app, f"bench {arguments}")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_refused_file_says_why():
    result = run(app, f"bench --model {__file__} --engine llamacpp {SHORT}")
    assert result.exit_code == 1
    assert "llama.cpp was not measured" in result.stdout
    assert "is not a GGUF file" in result.stdout


def test_a_process_that_dies_tells_its_last_words(tmp_path: Path):
    plan = BenchOptions(tmp_path / "m.gguf")
    with (
        session.EngineProcess("magic", plan) as worker,
        pytest.raises(EngineError, match="KeyError: 'magic'"),
    ):
        worker.answer()


@pytest.mark.parametrize("name", ["thesis.txt", "other.json", "list.json", "folder", "link", "device"])
def test_a_target_that_is_no_report_is_refused_before_anything_runs(
    name: str, strange_targets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session, "run", lambda *args: pytest.fail("measured"))
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    result = run(app, ["bench", "--model", __file__, "--json", str(strange_targets[name])])
    assert result.exit_code == 2
    assert str(strange_targets[name]) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_an_earlier_report_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session, "run", lambda *args: [EngineResult("native", error="no")])
    out = tmp_path / "new" / "speed.json"
    for _ in range(2):
        result = run(app, ["bench", "--model", __file__, "--no-compare", "--json", str(out)])
        assert result.exit_code == 1, "the engine that was asked for did not run"
        assert json.loads(out.read_text())["engines"]["native"]["error"] == "no"
    assert list(out.parent.iterdir()) == [out]
