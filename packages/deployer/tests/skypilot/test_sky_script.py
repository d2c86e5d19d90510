"""The script of a node under bash, with a `uv` and an interpreter that tell what they were asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from wf_deployer.backends.base import Resources
from wf_deployer.backends.sky import script
from wf_deployer.backends.sky.script import Program, run_script

PYTHON = r"""#!/bin/bash
[ "$1 $2 $3" = "-m wf_stores.main put" ] && exec cp -r "$4" "$5"
[ "$1 $2" = "-m torch.distributed.run" ] && { printf '%s\n' "$@"; trap; exit 0; }
shift
exec "$@"
"""
UV = """#!/bin/bash
echo "uv $*"
[ ! -e no_packages ] && mkdir -p .venv/bin && cp "$FAKE/python" .venv/bin/python
"""
STOPS = "trap 'sleep 0.3; echo saved; exit 143' TERM; echo at work; while :; do sleep 0.05; done"


class Node:
    def __init__(self, folder: Path) -> None:
        self.fake, self.root, self.store = folder / "fake", folder / "a workdir's root", folder / "the store"
        (self.root / "sub").mkdir(parents=True)
        self.fake.mkdir()
        self.store.mkdir()
        programs = {
            "uv": UV,
            "python": PYTHON,
            "c++": "",
            "scancel": '#!/bin/bash\necho "$*" >"$FAKE/released"\n',
        }
        for name, text in programs.items():
            (self.fake / name).write_text(text)
            (self.fake / name).chmod(0o755)

    def start(
        self, *command: str, rank: int = 0, resources: Resources | None = None, **kind: Any
    ) -> subprocess.Popen[str]:
        """Runs `command` in place of the trainer: our interpreter becomes that of the machine."""
        options = {"is_managed": False, "is_slurm": False} | kind
        program = Program(
            "a-job",
            [sys.executable, "-m", *command],
            PurePosixPath("sub"),
            str(self.store / "end"),
            resources or Resources(),
            **options,
        )
        (self.fake / "run.sh").write_text(run_script(program))
        return subprocess.Popen(
            ["bash", str(self.fake / "run.sh")],
            cwd=self.root,
            env=os.environ
            | {
                "PATH": f"{self.fake}:{os.environ['PATH']}",
                "HOME": "/nowhere",
                "FAKE": str(self.fake),
                "SLURM_JOB_ID": "17",
                "SKYPILOT_NODE_RANK": str(rank),
                "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, **kind: Any) -> tuple[int, str]:
        process = self.start(*command, **kind)
        output, _ = process.communicate(timeout=30)
        return process.returncode, output

    @property
    def end(self) -> tuple[int, str] | None:
        """Exit code and log beside the uploads."""
        folder = self.store / "end"
        if not folder.exists():
            return None
        end = json.loads((folder / "exit.json").read_text())
        assert end.keys() == {"returncode", "cancelled", "ended_s"}
        assert end["cancelled"] is False
        return end["returncode"], (folder / "log.txt").read_text()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(script, "RELEASE_S", 0)
    return Node(tmp_path)


@pytest.mark.parametrize("code", [0, 3])
def test_the_end_is_put_beside_the_uploads(node: Node, code: int) -> None:
    returncode, output = node.run("bash", "-c", f"pwd; exit {code}")
    assert returncode == code
    assert output == f"uv sync --no-dev\n{node.root}/sub\n"
    assert node.end == (code, output)
    assert not (node.fake / "released").exists()


def test_arguments_arrive_as_they_are(node: Node) -> None:
    arguments = ["a b", "it's", '"', "$HOME", "`id`", "new\nline", "", "*", "\\", "{}", "%s"]
    _, output = node.run("printf", "[%s]", *arguments)
    assert output.endswith("".join(f"[{argument}]" for argument in arguments))


def test_one_term_for_every_process_lets_training_save(node: Node) -> None:
    process = node.start("bash", "-c", STOPS)
    assert process.stdout is not None
    while "at work" not in process.stdout.readline():
        pass
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert output.endswith("saved\n")
    assert process.returncode == 143
    assert node.end is not None
    assert node.end[0] == 143
    assert node.end[1].endswith("saved\n")


def test_packages_that_cannot_be_had_end_the_job(node: Node) -> None:
    (node.root / "no_packages").touch()
    returncode, output = node.run("echo", "trains")
    assert returncode == 1
    assert "trains" not in output
    assert f"wf: how the job ended is not in {node.store}/end" in output


def test_a_managed_job_ends_with_success_alone(node: Node) -> None:
    assert node.run("false", is_managed=True)[0] == 1
    assert node.end is None
    assert node.run("true", is_managed=True)[0] == 0
    assert node.end is not None


def test_only_the_first_node_says_how_it_ended(node: Node) -> None:
    assert node.run("true", rank=1)[0] == 0
    assert node.end is None


@pytest.mark.parametrize("rank", [0, 1])
def test_nodes_meet_and_have_folders_of_their_own(node: Node, rank: int) -> None:
    resources = Resources("H100:8", num_nodes=2)
    _, output = node.run("wrinklefree.train", "-s", "2", rank=rank, resources=resources)
    words = output.splitlines()
    assert {"--nnodes=2", "--nproc-per-node=8", "--rdzv-backend=c10d", "--rdzv-id=a-job"} <= set(words)
    assert f"--rdzv-conf=is_host={'true' if rank == 0 else 'false'}" in words
    assert f"--local-addr=10.0.0.{rank + 1}" in words
    (endpoint,) = [word for word in words if word.startswith("--rdzv-endpoint=10.0.0.1:")]
    assert 10_000 <= int(endpoint.rpartition(":")[2]) < 30_000
    assert "trap -- '' SIGTERM" in words  # the agent does not pass it on
    trainer = words[words.index("--no-python") + 1 :]
    assert trainer[:5] == [
        "env",
        "--default-signal=TERM",
        f"{node.root}/.venv/bin/python",
        "-m",
        "wrinklefree.train",
    ]
    assert trainer[5:8] == ["-s", "2", "distributed.shared_output=false"]
    folder = Path(trainer[8].removeprefix("output_dir="))
    assert folder.parent == node.root
    assert not list(folder.iterdir())


def test_on_slurm_one_environment_is_everybodys_and_machines_are_given_back(node: Node) -> None:
    resources = Resources(num_nodes=2)
    second = node.start("wrinklefree.train", rank=1, resources=resources, is_slurm=True)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.5)
    _, output = node.run("wrinklefree.train", rank=0, resources=resources, is_slurm=True)
    assert output.startswith("uv sync --no-dev\n")
    later, _ = second.communicate(timeout=30)
    assert "uv sync" not in later
    assert "--no-python" in later
    assert "output_dir" not in output
    assert (node.fake / "released").read_text() == "17\n"
