"""Help, errors and pass-through of the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wf_deployer.main import app
from wf_deployer.workspace import SCRIPTS

COMMANDS = ["quickstart", "train", "runs", "logs", "cancel", "export", "serve", "chat", "eval", "bench"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, runner: CliRunner) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"wf {command}" in result.output.split("Usage:")[1].split("\n", 1)[1]


def test_help_lists_the_commands(runner: CliRunner) -> None:
    result = runner.invoke(app, ["--help"])
    assert all(command in result.output for command in COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["quickstart", "--help"], ["train", "--help"]])
def test_help_takes_less_than_a_second_of_processor_time(arguments: list[str]) -> None:
    """CPU time of the best of three: the machine may be busy with something else."""
    command = [sys.executable, "-c", "from wf_deployer.main import app; app()", *arguments]
    times_s = []
    for _ in range(3):
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        spent = after.children_user - before.children_user + after.children_system - before.children_system
        times_s.append(spent)
    assert min(times_s) < 1.0


def test_importing_the_application_imports_nothing_heavy() -> None:
    source = "import sys, wf_deployer.main; print([m for m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    modules = set(re.findall(r"'([\w.]+)'", done.stdout))
    assert not modules & {"torch", "matplotlib", "numpy", "psutil", "transformers", "yaml", "hydra"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-s", "2", "--cloud", "modal"], "error: --cloud 'modal' comes later"),
        (["train", "-s", "2", "oops"], "'oops' is no Hydra override; give key=value"),
        (["train", "-s", "3"], "'3' is not one of"),
        (["cancel", "nothing"], "no jobs in"),
        (["logs"], "no jobs in"),
    ],
)
def test_errors_say_what_and_how(
    arguments: list[str], message: str, runner: CliRunner, runs_dir: Path
) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_an_installed_copy_without_a_workspace_says_so(tmp_path: Path) -> None:
    from wf_deployer.errors import CommandError
    from wf_deployer.workspace import workspace_root

    with pytest.raises(CommandError, match="no uv workspace above"):
        workspace_root(tmp_path / "site-packages" / "wf_deployer" / "workspace.py")


def test_the_workspace_is_found(workspace_root: Path) -> None:
    from wf_deployer.workspace import workspace_root as find

    assert find() == workspace_root.resolve()


def _fake_run(seen: list[tuple[list[str], dict[str, str]]]):
    def run(command: list[str], environment: dict[str, str] | None = None) -> int:
        seen.append((command, dict(environment or {})))
        return 3

    return run


@pytest.mark.parametrize(
    ("arguments", "expected", "environment"),
    [
        (
            ["export", "--checkpoint", "c", "--output", "o.gguf", "--embeddings", "q8_0", "--verify"],
            [
                SCRIPTS["export"],
                "--checkpoint",
                "c",
                "--output",
                "o.gguf",
                "--embeddings",
                "q8_0",
                "--verify",
            ],
            {},
        ),
        (
            ["chat", "--model", "m.gguf", "--prompt", "Hi", "--max-tokens", "5"],
            ["chat", "--model", "m.gguf", "--prompt", "Hi", "--max-tokens", "5"],
            {},
        ),
        (
            ["serve", "--engine", "llamacpp", "--model", "m.gguf", "--api-key", "hidden", "--web-ui"],
            ["serve", "--model", "m.gguf", "--engine", "llamacpp", "--web-ui"],
            {"WF_API_KEY": "hidden"},
        ),
        (
            ["serve", "--model", "m", "--api-key", "a-key", "--api-key", "b-key", "--kv-cache-gb", "0.5"],
            ["serve", "--model", "m", "--kv-cache-gb", "0.5"],
            {"WF_API_KEY": "a-key b-key"},
        ),
        (
            ["serve", "--engine", "openai", "--model", "http://h", "--upstream-api-key", "hidden"],
            ["serve", "--model", "http://h", "--engine", "openai"],
            {"WF_UPSTREAM_API_KEY": "hidden"},
        ),
        (
            ["bench", "--model", "m.gguf", "--batch", "1,4", "--no-compare", "--json", "o.json"],
            ["bench", "--model", "m.gguf", "--batch", "1,4", "--no-compare", "--json", "o.json"],
            {},
        ),
        (["bench", "--model", "m.gguf", "--compare"], ["bench", "--model", "m.gguf"], {}),
        (
            ["eval", "--model-path", "m", "--text", "a.txt", "--text", "b.txt"],
            [SCRIPTS["evaluate"], "--model-path", "m", "--text", "a.txt", "--text", "b.txt"],
            {},
        ),
        (
            ["train", "-s", "1.5", "-e", "x", "--foreground"],
            [SCRIPTS["train"], "training=stage1_5_calibrate", "experiment=x"],
            {},
        ),
        (
            ["train", "-s", "1.9", "-e", "x", "--foreground", "training.max_steps=3"],
            [SCRIPTS["train"], "training=stage1_9_layerwise", "experiment=x", "training.max_steps=3"],
            {},
        ),
    ],
)
def test_pass_through(
    arguments: list[str],
    expected: list[str],
    environment: dict[str, str],
    runner: CliRunner,
    monkeypatch: pytest.MonkeyPatch,
    workspace_root: Path,
) -> None:
    """The child gets the given flags only, a key by its environment; its exit code is ours."""
    seen: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr("wf_deployer.processes.run_foreground", _fake_run(seen))
    monkeypatch.setattr("wf_deployer.workspace.script_command", lambda name: [f"{SCRIPTS[name]}"])
    result = runner.invoke(app, arguments)
    assert result.exit_code == 3, result.output
    command, given = seen[0]
    assert command[-len(expected) :] == expected
    assert given == environment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "target"),
    [
        ("export", [sys.executable, SCRIPTS["export"]]),
        ("eval", [sys.executable, SCRIPTS["evaluate"]]),
        ("chat", [sys.executable, "-m", "wrinklefree_inference", "chat"]),
        ("serve", [sys.executable, "-m", "wrinklefree_inference", "serve"]),
        ("bench", [sys.executable, "-m", "wrinklefree_inference", "bench"]),
    ],
)
def test_flags_are_those_of_the_application(
    command: str, target: list[str], runner: CliRunner, workspace_root: Path
) -> None:
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1"}
    theirs = subprocess.run(
        [*target, "--help"], capture_output=True, text=True, check=True, cwd=workspace_root, env=environment
    ).stdout
    ours = runner.invoke(app, [command, "--help"]).output
    found = [set(re.findall(r"(?<![\w`])--(?!no-)[a-z][a-z-]+", text)) for text in (theirs, ours)]
    assert found[0] == found[1]


def test_a_foreground_child_gets_sigterm(tmp_path: Path) -> None:
    child = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(30)\n"
    )
    source = (
        "import sys; from wf_deployer.processes import run_foreground;"
        f"sys.exit(run_foreground([sys.executable, '-c', {child!r}]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", source])
    deadline_s = time.monotonic() + 20
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    parent.terminate()
    assert parent.wait(timeout=20) == 7


def test_runs_as_json_is_a_list(runner: CliRunner, runs_dir: Path) -> None:
    result = runner.invoke(app, ["runs", "--json"])
    assert json.loads(result.output) == []
