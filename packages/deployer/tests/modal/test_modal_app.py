"""What a generated app asks of Modal, and what its function does where it runs; trainers are lines of sh."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_client import EXCEPTION, App, Modal, load_app

from wf_deployer.backends.base import JobSpec, Resources
from wf_deployer.backends.modal.generate import job_values, write_app
from wf_deployer.backends.modal.settings import settings_of
from wf_deployer.backends.record import JobRecord

SAVE = 'mkdir -p "$RUN/checkpoints/step_1" && echo "{}" >"$RUN/checkpoints/step_1/manifest.json"'
UNTIL_TERM = f"""trap 'echo term >>"$RUN/terms"; {SAVE}; exit 143' TERM
touch "$RUN/${{1-started}}"; while :; do sleep 0.02; done"""


class Container:
    """An app as a container of Modal loads it, its function run here."""

    def __init__(self, module: Any, modal: Modal, run: Path) -> None:
        self.module, self.modal, self.run = module, modal, run

    def train(self, script: str, **values: Any) -> dict[str, Any]:
        self.module.JOB.update({"command": ["sh", "-c", script], "several": False} | values)
        returned: dict[str, Any] = self.module.train.run()
        return returned

    @property
    def commits(self) -> int:
        return self.modal.asked.count("commit")

    @property
    def terms(self) -> int:
        path = self.run / "terms"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def when_started(self, action: Callable[[], Any]) -> None:
        """Does something while the function watches, once training has begun."""
        look = self.module.saved
        is_done: list[bool] = []

        def saved() -> Any:
            if (self.run / "started").exists() and not is_done:
                is_done.append(True)
                action()
            return look()

        self.module.saved = saved


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    resources = Resources("H100:8,A100-80GB:8", cpus=32, time_s=7200)
    monkeypatch.setenv("WF_MODAL_SECRETS", "huggingface:HF_TOKEN")
    command = [sys.executable, "-m", "wrinklefree.train"]
    spec = JobSpec("job-1", "train", "stage2", "mine", command, "/", cloud="modal", resources=resources)
    path = write_app(
        tmp_path, JobRecord(**vars(spec), token="0" * 32), job_values(spec, settings_of(resources))
    )
    modal = Modal()
    module = load_app(path, modal.module())
    modal.apps["ap-1"] = App("wf-job-1", "alice")
    module.app.app_id = "ap-1"
    run = tmp_path / "outputs" / "mine" / "stage2"
    run.mkdir(parents=True)
    monkeypatch.setenv("RUN", str(run))
    module.CHECKOUT, module.OUTPUTS = str(tmp_path), str(tmp_path / "outputs")
    module.LOOK_EVERY_S = module.ASK_EVERY_S = 0.02
    return Container(module, modal, run)


def test_what_is_asked_of_modal(container: Container) -> None:
    options = container.module.train.options
    image = options.pop("image")
    volumes = {place: volume.name for place, volume in options.pop("volumes").items()}
    assert volumes == {"/outputs": "wf-outputs"}
    assert options == {
        "gpu": ["H100:8", "A100-80GB:8"],
        "cpu": 32,
        "timeout": 7200,
        "retries": {"max_retries": 3, "initial_delay": 0.0},
        "single_use_containers": True,
        "max_containers": 1,
        "secrets": [("huggingface", ["HF_TOKEN"])],
    }
    assert container.module.app.tags == {"wf-run": "job-1", "wf-token": "0" * 32}
    added = [(args, options) for name, args, options in image.steps if name == "add_local_dir"]
    assert [args[1] for args, _ in added] == ["/wf", "/wf"]
    assert all(options["copy"] for _, options in added)
    first, second = (options["ignore"] for _, options in added)
    for path in ("pyproject.toml", "packages/a/pyproject.toml", "uv.lock", "scripts/lock"):
        assert not first(Path(path))
    assert first(Path("packages/a/src/lock"))
    assert second(Path("uv.lock"))  # the one that uv has completed there stays
    assert not second(Path("packages/a/src/a.py"))


def test_checkpoints_are_committed_when_their_manifest_is_there(container: Container) -> None:
    seen: list[int] = []
    look = container.module.commit

    def commit() -> bool:
        seen.append(len(list(container.run.glob("checkpoints/*/manifest.json"))))
        done: bool = look()
        return done

    container.module.commit = commit
    returned = container.train(f"{SAVE}; sleep 0.2")
    assert (returned["returncode"], returned["cancelled"]) == (0, False)
    assert seen == [1]
    assert container.commits == 2  # and at the end
    assert not container.terms


def test_a_commit_that_fails_is_tried_again_and_the_last_one_has_to_succeed(container: Container) -> None:
    container.modal.raises["commit"] = EXCEPTION.InvalidError("there are open files")
    try_it = container.module.commit

    def commit() -> bool:
        done: bool = try_it()
        if container.commits == 2:
            (container.run / "go").touch()
        return done

    container.module.commit = commit
    with pytest.raises(EXCEPTION.InvalidError):
        container.train(f'{SAVE}; until [ -e "$RUN/go" ]; do sleep 0.02; done')
    assert container.commits > 2


@pytest.mark.parametrize("code", [1, 2])
def test_a_start_that_saved_nothing_is_the_last(container: Container, code: int) -> None:
    assert container.train(f"exit {code}")["returncode"] == code


def test_a_start_that_saved_is_started_again(container: Container) -> None:
    with pytest.raises(RuntimeError, match="exit code 1 after it had saved"):
        container.train(f"{SAVE}; exit 1")
    assert container.train("exit 1")["returncode"] == 1  # the second one saved nothing new
    assert container.train(f"rm -r $RUN/checkpoints; {SAVE}; exit 1", retries=0)["returncode"] == 1


def test_training_is_asked_once_for_its_checkpoint_before_the_time_limit(container: Container) -> None:
    later_s = [0.0]
    container.module.time = SimpleNamespace(
        monotonic=lambda: time.monotonic() + later_s[0], sleep=time.sleep, time=time.time
    )
    container.when_started(lambda: later_s.append(later_s.pop() + 7200 - 299))
    with pytest.raises(RuntimeError, match="exit code 143"):
        container.train(UNTIL_TERM)
    assert container.terms == 1


def test_wf_cancel_lets_training_save(container: Container) -> None:
    container.when_started(lambda: container.modal.apps["ap-1"].tags.update({"wf-cancel": "asked"}))
    returned = container.train(UNTIL_TERM)
    assert (returned["returncode"], returned["cancelled"]) == (143, True)
    assert container.terms == 1


def test_a_job_that_was_cancelled_does_not_begin_again(container: Container) -> None:
    container.modal.apps["ap-1"].tags["wf-cancel"] = "asked"
    assert container.train('touch "$RUN/started"')["cancelled"]
    assert not (container.run / "started").exists()


def test_a_machine_that_is_taken_away_lets_training_save(container: Container) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    container.when_started(interrupt)
    with pytest.raises(KeyboardInterrupt):
        container.train(UNTIL_TERM)
    assert container.terms == 1
    assert container.commits == 1


def test_each_of_several_processes_is_asked_and_their_agent_is_not(container: Container) -> None:
    rank = container.run / "rank.sh"
    rank.write_text(UNTIL_TERM)
    container.when_started(lambda: container.modal.apps["ap-1"].tags.update({"wf-cancel": "asked"}))
    agent = f"""trap "" TERM
    for rank in 1 2; do env --default-signal=TERM sh {rank} up$rank & done
    until [ -e "$RUN/up1" ] && [ -e "$RUN/up2" ]; do sleep 0.02; done
    touch "$RUN/started"
    wait"""
    returned = container.train(agent, several=True)
    assert returned["cancelled"]
    assert container.terms == 2


def test_tags_that_cannot_be_read_do_not_end_training(container: Container) -> None:
    container.modal.raises["get_tags"] = EXCEPTION.ConnectionError("no network")
    assert container.train("sleep 0.2")["returncode"] == 0
