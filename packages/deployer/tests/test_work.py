"""Jobs that read files and leave results: what runs, what is sent, and one from its start to its table."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import Result
from typer.testing import CliRunner

from wf_deployer.applications import Application
from wf_deployer.backends.base import JobSpec
from wf_deployer.backends.inputs import copy_place
from wf_deployer.backends.registry import find_job
from wf_deployer.backends.work import check_inputs, copy_inputs, output_place, work_script
from wf_deployer.errors import CommandRequestError
from wf_deployer.main import app

PYTHON = r"""#!/bin/bash
case "$*" in
"-m wf_stores.main get"*)
    [ ! -e "$STORE/${4##*/}" ] || cp -r "$STORE/${4##*/}" "$5"
    [ -e "$5" ] || [ "$6" = --if-there ] ;;
"-m wf_stores.main put"*) cp -r "$4" "$STORE/put" ;;
*) shift 2; printf '[%s]' "$@"; echo; touch report.json; exit "${CODE:-0}" ;;
esac
"""
HF = r"""#!/bin/bash
echo "hf $1 $2 $3 $4"
while [ $# -gt 1 ]; do shift; done
mkdir -p "$1" && touch "$1/config.json" "$1/mine.gguf" "$1/model.safetensors"
"""


class There:
    """A machine that runs a job's bash; its store is a folder."""

    def __init__(self, folder: Path) -> None:
        self.store, self.bin, self.sent = folder / "store", folder / "a bin", folder / "what's sent"
        for path in (self.store, self.bin):
            path.mkdir()
        for name, text in (("python", PYTHON), ("hf", HF)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def put(self, name: str, *files: str) -> None:
        for file in files:
            (self.store / name / file).parent.mkdir(parents=True, exist_ok=True)
            (self.store / name / file).touch()

    def run(self, spec: JobSpec, **environment: str) -> tuple[int, str]:
        quoted = {name: f'"{path}"' for name, path in (("python", self.bin / "python"), ("sent", self.sent))}
        script = work_script(spec, quoted["python"], quoted["sent"])
        given = os.environ | {"STORE": str(self.store), "TMPDIR": str(self.store.parent)} | environment
        done = subprocess.run(
            ["bash", "-c", script], env=given, stdout=subprocess.PIPE, text=True, check=False
        )
        return done.returncode, done.stdout


@pytest.fixture
def there(tmp_path: Path) -> There:
    return There(tmp_path)


def spec_of(inputs: dict[str, list[str]], *words: str) -> JobSpec:
    command = [sys.executable, "-m", "an.evaluation", *words]
    return JobSpec("job-1", "eval", "eval", "mine", command, "/", upload="gs://b/evals", inputs=inputs)


ODD = ["a b", "it's", '"', "$HOME", "`id`", "", "*", "\\", "{}"]


def test_arguments_arrive_and_what_was_sent_is_found(there: There, tmp_path: Path) -> None:
    model, data = tmp_path / "a model's (1).gguf", tmp_path / "data"
    model.write_text("weights")
    (data / "sub").mkdir(parents=True)
    for name in ("sub/asked", "not_asked"):
        (data / name).touch()
    inputs = {str(model): [], str(data): ["sub/asked"]}
    spec = spec_of(inputs, "--model", str(model), "--data", str(data), *ODD)
    copy_inputs(spec, there.sent)
    assert sorted(str(path.relative_to(there.sent)) for path in there.sent.rglob("*") if path.is_file()) == [
        "0/a_model_s__1_.gguf",
        "1/data/sub/asked",
    ]
    code, output = there.run(spec)
    model_there, data_there = there.sent / "0" / "a_model_s__1_.gguf", there.sent / "1" / "data"
    words = ["--model", str(model_there), "--data", str(data_there), *ODD]
    assert (code, output) == (0, "".join(f"[{word}]" for word in words) + "\n")
    assert [path.name for path in (there.store / "put").iterdir()] == ["report.json"]
    assert not list(tmp_path.glob("tmp.*"))


FETCHED = {
    "gs://b/one": (["mine.gguf", "README.md"], "one/mine.gguf"),
    "gs://b/text": (["wiki.txt"], "text/wiki.txt"),
    "s3://b/folder": (["config.json", "model.safetensors"], "folder"),
    "gs://b/two": (["a.gguf", "b.gguf"], "two"),
    "gs://b/nested": (["sub/wiki.txt"], "nested"),
}


@pytest.mark.parametrize("place", FETCHED)
def test_what_lies_in_a_store_is_fetched_and_one_file_alone_is_meant_itself(there: There, place: str) -> None:
    files, expected = FETCHED[place]
    there.put(place.rpartition("/")[2], *files)
    code, output = there.run(spec_of({place: []}, "--model", place))
    assert code == 0
    assert output.endswith(f"/fetched/0/{expected}]\n")


@pytest.mark.parametrize(
    ("place", "asked", "expected"),
    [
        ("hub:me/mine@v1", "hf download me/mine --revision", "mine/mine.gguf"),
        ("hub:me/mine/sub/a.gguf", "hf download me/mine sub/a.gguf", "a.gguf/sub/a.gguf"),
    ],
)
def test_what_lies_on_the_hub_is_fetched(there: There, place: str, asked: str, expected: str) -> None:
    code, output = there.run(spec_of({place: []}, "--model", place))
    assert code == 0
    assert output.startswith(asked)
    assert output.endswith(f"/fetched/0/{expected}]\n")


def test_a_program_that_fails_leaves_no_results(there: There) -> None:
    assert there.run(spec_of({}), CODE="3")[0] == 3
    assert not (there.store / "put").exists()


def test_what_cannot_be_fetched_ends_the_job_before_the_program(there: There) -> None:
    code, output = there.run(spec_of({"gs://b/none": []}, "gs://b/none"))
    assert (code, output) == (1, "")
    assert not (there.store / "put").exists()


def test_a_start_after_one_that_left_its_results_does_nothing(there: There) -> None:
    there.put("job-1", "report.json")
    code, output = there.run(spec_of({}))
    assert (code, output) == (0, "wf: an earlier start has left the results\n")
    assert not (there.store / "put").exists()


def test_of_a_folder_all_is_sent_but_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name in ("config.json", "sub/a.bin", ".env", "sub/id_rsa", "hf_credentials.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "link").symlink_to("config.json")
    copy_place(folder, tmp_path / "copy")
    copied = [path for path in (tmp_path / "copy").rglob("*") if not path.is_dir()]
    assert sorted(str(path.relative_to(tmp_path / "copy")) for path in copied) == [
        "config.json",
        "link",
        "sub/a.bin",
    ]
    assert not any(path.is_symlink() for path in copied)


def dangling(folder: Path) -> None:
    (folder / "x").symlink_to("none")


def folder_link(folder: Path) -> None:
    (folder / "x").symlink_to("/etc")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "x")


def nothing(folder: Path) -> None:
    (folder / "kept").unlink()


def secret(folder: Path) -> None:
    (folder / ".env").touch()
    (folder / "kept").unlink()


SPECIAL = {
    secret: "has no files to send",
    dangling: "x is no regular file, and would be sent",
    folder_link: "x is no regular file, and would be sent",
    pipe: "x is no regular file, and would be sent",
    nothing: "has no files to send",
}


@pytest.mark.parametrize("make", SPECIAL)
def test_what_cannot_be_sent_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "kept").touch()
    make(folder)
    with pytest.raises(CommandRequestError) as raised:
        check_inputs({str(folder): []})
    assert SPECIAL[make] in str(raised.value)


def test_a_file_that_is_named_like_a_secret_is_refused(tmp_path: Path) -> None:
    for name in ("secrets.yaml", "task.yaml"):
        (tmp_path / name).touch()
    for inputs in ({str(tmp_path): ["task.yaml", "secrets.yaml"]}, {str(tmp_path / "secrets.yaml"): []}):
        with pytest.raises(CommandRequestError, match=r"secrets\.yaml is named like a secret"):
            check_inputs(inputs)


@pytest.mark.parametrize("name", ["a\nb.gguf", "a\x1b[2J.gguf", os.fsdecode(b"a\xff.gguf")])
def test_names_that_may_not_arrive_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CommandRequestError, match="may not arrive under this name") as raised:
        check_inputs({str(tmp_path / name): []})
    assert str(raised.value).isprintable()


PLACES = {
    ("gs://b/x", False): "gs://b/x",
    ("s3://b", True): "s3://b",
    ("evals", True): "/here/evals",
    ("/x/y", True): "/x/y",
    (None, True): "/default",
    ("evals", False): "--output evals is a disk of this machine: give --output gs://BUCKET/PREFIX",
    ("gs:/b/x", True): "--output gs:/b/x is no place for results: give",
    ("https://x/y", False): "--output https://x/y is no place for results: give",
    ("GS://b/x", False): "--output GS://b/x is no place for results: give",
    ("gs://", True): "--output gs:// is no place for results: give",
    ("gs://u@b/x", True): "--output gs://u@b/x is no place for results: give",
    (None, False): "--output is missing, and machines of others keep nothing: give",
}


@pytest.mark.parametrize(("given", "sees_paths"), PLACES)
def test_places_for_results(given: str | None, sees_paths: bool) -> None:
    expected = PLACES[given, sees_paths]
    default = "/default" if sees_paths else None
    if not expected.startswith("--output"):
        assert output_place(given, "/here", default, sees_paths) == expected
        return
    with pytest.raises(CommandRequestError) as raised:
        output_place(given, "/here", default, sees_paths)
    assert str(raised.value).startswith(expected)


class Wf:
    """`wf` with small_evaluation.py in the place of the evaluation."""

    def __init__(self, folder: Path, runner: CliRunner) -> None:
        self.folder, self.runner = folder, runner
        self.shown: list[list[str]] = []

    def __call__(self, *arguments: str) -> Result:
        return self.runner.invoke(app, list(arguments))

    def started(self, *arguments: str) -> str:
        done = self("eval", "--cloud", "local", "--model", "mine.txt", *arguments)
        assert done.exit_code == 0, done.output
        return done.output.split()[1]


@pytest.fixture
def wf(tmp_path: Path, runs_dir: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> Wf:
    found = Wf(tmp_path, runner)
    small = Application(
        "eval", "", ("small_evaluation",), ("--cloud", "--results"), ("small_evaluation", "show")
    )
    monkeypatch.setattr("wf_deployer.commands.evaluate.application_of", lambda name: small)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")

    def become(command: list[str], environment: dict[str, str]) -> NoReturn:
        found.shown.append(command)
        raise SystemExit(subprocess.run(command, check=False).returncode)

    monkeypatch.setattr("wf_deployer.processes.become", become)
    return found


def test_a_job_from_its_start_to_its_table(wf: Wf, runs_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job_id = wf.started()
    assert "reads mine\n" in wf("logs", "-f", job_id).output
    assert wf("runs").output.split("\n")[1].split()[:5] == [job_id, "finished", "local", "mine.txt", "eval"]
    for _ in range(2):
        assert wf("eval", "--results", job_id).exit_code == 0
        assert capfd.readouterr().out == "the table of mine\n"
    assert [path.name for path in (runs_dir / job_id / "results").iterdir()] == ["report.json"]
    (upload,) = (runs_dir / job_id / "output").iterdir()
    assert sorted(path.name for path in upload.iterdir())[-1] == "COMPLETE"
    _a_damaged_copy_is_fetched_again(wf, runs_dir / job_id, capfd)


def _a_damaged_copy_is_fetched_again(wf: Wf, job: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of the same job, since starting one takes seconds."""
    copy = job / "results" / "report.json"
    whole = copy.read_bytes()
    (job / "results" / "notes.txt").write_text("somebody's, which harm nothing")
    assert wf("eval", "--results", job.name).exit_code == 0
    assert "damaged" not in capfd.readouterr().err
    for number, harm in enumerate(
        (lambda: copy.write_bytes(whole[:-3]), copy.unlink, (job / "results.json").unlink)
    ):
        harm()
        done = wf("eval", "--results", job.name)
        assert done.exit_code == 0
        assert capfd.readouterr().out == "the table of mine\n"
        assert copy.read_bytes() == whole
        assert len(list(job.glob("results.replaced-*"))) == number + 1
    assert any((old / "notes.txt").is_file() for old in job.glob("results.replaced-*"))
    shutil.rmtree(job / "output")
    copy.write_bytes(whole[:-3])
    told = wf("eval", "--results", job.name)
    assert told.exit_code == 1
    assert "results is damaged (report.json was changed)" in told.output
    assert copy.read_bytes() == whole[:-3]


def test_a_job_that_was_cut_short_leaves_no_results(wf: Wf, runs_dir: Path) -> None:
    job_id = wf.started("--seconds", "60")
    while "reads mine" not in (runs_dir / job_id / "log.txt").read_text():
        time.sleep(0.05)
    told = wf("eval", "--results", job_id)
    assert told.exit_code == 1
    assert (
        told.output == f"error: {job_id} is running and has left no results; look again when it has ended\n"
    )
    assert "running" in wf("runs").output
    assert [path.name for path in (runs_dir / job_id).glob("scratch.*/*")] == ["results"]
    assert wf("cancel", job_id).exit_code == 0
    assert not list((runs_dir / job_id).glob("scratch.*"))
    (runs_dir / job_id / "scratch.killed" / "results").mkdir(parents=True)
    assert "cancelled" in wf("runs").output
    assert not list((runs_dir / job_id).glob("scratch.*"))
    told = wf("eval", "--results", job_id)
    assert f"error: {job_id} is cancelled and has left no results; `wf logs {job_id}` says why" in told.output
    assert not (runs_dir / job_id / "results").exists()
    assert not wf.shown


def test_results_are_of_an_evaluation_alone(wf: Wf, start: Callable[..., object]) -> None:
    start("pass")
    told = wf("eval", "--results", find_job(None).id)
    assert told.exit_code == 2
    assert "is a job of wf train, not of wf eval" in told.output
    told = wf("eval", "--results", "x", "--model", "y")
    assert told.exit_code == 2
    assert "--results is of a job that was submitted; leave --model y out" in told.output
    told = wf("eval", "--results", "x", "--dry-run", "--cloud=modal")
    assert "leave --cloud --dry-run out" in told.output


def test_a_dry_run_prints_what_would_run_and_starts_nothing(wf: Wf, runs_dir: Path) -> None:
    done = wf("eval", "--cloud", "local", "--model", "mine.txt", "--output", "evals", "--dry-run")
    assert done.exit_code == 0
    assert f"-m small_evaluation --model {wf.folder}/mine.txt" in done.output
    assert f'put "$scratch/results" {wf.folder}/evals/2' in done.output
    assert not runs_dir.exists()


REFUSED = {
    ("--cloud", "moon"): "--cloud 'moon' is not a back end",
    ("--cloud", "slurm", "--gpu", "H100:2"): "--gpu H100:2: wf eval is one process; give one, KIND:1",
    ("--cloud", "local", "--spot"): "--spot: local is this machine",
    ("--cloud", "local", "--allow-gcp-gpu"): "--allow-gcp-gpu is SkyPilot's, not for --cloud local",
    ("--cloud", "local", "--output", ""): "--output is empty",
    ("--cloud", "local", "--output", "gs:/b"): "--output gs:/b is no place for results",
    ("--cloud", "local", "--api-key", "hunter2"): "***: whoever runs the job stores this",
    (
        "--cloud",
        "gcp",
        "--gpu",
        "A100:1",
        "--output",
        "gs://b/x",
    ): "--gpu A100:1: GPUs on GCP are rented only",
    ("--cloud", "nebius"): "--output is missing, and machines of others keep nothing",
    ("--cloud", "nebius", "--time", "2h", "--output", "gs://b/x"): "--time: SkyPilot's jobs have no limit",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_wrong_requests_are_one_line_and_start_nothing(
    wf: Wf, runs_dir: Path, arguments: tuple[str, ...]
) -> None:
    done = wf("eval", "--model", "mine.txt", *arguments)
    assert done.exit_code == 2, done.output
    assert done.output.startswith(f"error: {REFUSED[arguments]}")
    assert len(done.output.splitlines()) == 1
    assert "hunter2" not in done.output
    assert not runs_dir.exists()


def test_the_application_refuses_in_its_own_words(
    wf: Wf, runs_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert wf("eval", "--cloud", "local", "--modell", "x").exit_code == 1
    assert capfd.readouterr().err == "wf eval: no such option --modell\n"
    assert not runs_dir.exists()


def test_a_gpu_for_what_runs_on_cpus_is_refused(wf: Wf, monkeypatch: pytest.MonkeyPatch) -> None:
    (wf.folder / "mine.gguf").touch()
    done = wf("eval", "--model", "mine.gguf", "--cloud", "nebius", "--gpu", "L4:1", "--output", "gs://b/x")
    assert done.exit_code == 2
    assert "--gpu L4:1: mine.gguf runs on CPUs; leave it out" in done.output
