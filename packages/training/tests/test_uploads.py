"""Checkpoints that go into a store while a run trains, and runs that go on from there on another machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_arch import read_meta
from wf_stores import check_upload, complete_names, open_store, remove_upload, upload_folder
from wf_stores.errors import UnavailableError
from wf_stores.layout import file_key
from wf_stores.local import LocalStore
from wrinklefree import application, identity
from wrinklefree.auto_setup import find_start
from wrinklefree.callbacks import StepLog
from wrinklefree.checkpoints.store import CheckpointStore
from wrinklefree.compose.composing import compose_config
from wrinklefree.errors import RunError
from wrinklefree.identity import identify
from wrinklefree.run_folder import RunFolder
from wrinklefree.stages.registry import stage_of
from wrinklefree.uploads import run_uploads, uploader
from wrinklefree.uploads.start import fetched_folder, holding_start

OPTIONS = ["training.max_steps=6", "training.schedule.decay=2", "training.checkpoint.every_steps=2"]


def upload_to(url: Path | str, *more: str) -> list[str]:
    return [*OPTIONS, f"training.checkpoint.upload={url}", *more]


def test_uploads_are_apart_from_the_run(
    cli_from_stage1: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for inside in (tmp_path, tmp_path / "default" / "stage2"):
        assert cli_from_stage1("stage2_pretrain", *upload_to(inside)).code == 2
        assert "is in the folder of the run itself" in capsys.readouterr().err


def names_in(url: Path | str) -> list[str]:
    """Last parts of the complete uploads' names."""
    return sorted(name.rpartition("/")[2] for name in complete_names(open_store(url)))


@pytest.fixture(scope="module")
def uninterrupted(make_cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_cli(tmp_path_factory.mktemp("whole"))("stage2_pretrain", *OPTIONS)


def kill_at_step_5() -> None:
    """When the checkpoint of step 4 is uploaded."""
    finished, original = threading.Event(), uploader.upload

    def upload(uploads: Any, folder: Path, *arguments: Any) -> int:
        sent = original(uploads, folder, *arguments)
        if folder.name == "step_00000004":
            finished.set()
        return sent

    def on_step_end(self: StepLog, trainer: Any, module: Any, done: int) -> None:
        log(self, trainer, module, done)
        if done == 5:
            assert finished.wait(60)
            os.kill(os.getpid(), signal.SIGKILL)

    log = StepLog.on_step_end
    StepLog.on_step_end = on_step_end  # type: ignore[method-assign]
    uploader.upload = upload


def kill_in_the_upload_of_step_4() -> None:
    original = uploader.upload_folder

    def upload(folder: Path, store: Any, name: str, advance: Callable[[int], None]) -> Any:
        def kill(num_bytes: int) -> None:
            if name.endswith("4"):
                os.kill(os.getpid(), signal.SIGKILL)

        return original(folder, store, name, kill)

    uploader.upload_folder = upload  # type: ignore[assignment]


@pytest.fixture
def s3_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import store_servers  # not at the top: children of the zygote read this file too

    if not store_servers.is_installed(store_servers.S3_WHEEL):
        pytest.skip("moto is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with store_servers.s3_server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server)
        yield f"s3://{store_servers.BUCKET}/runs"


def test_a_run_goes_on_from_a_bucket_to_the_bit(
    cli_from_stage1: Any,
    uninterrupted: Any,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def offer_and_wait(self: uploader.Uploader, folder: Path) -> None:
        offer(self, folder)
        self._open[folder].result(60)

    offer = uploader.Uploader.offer
    monkeypatch.setattr(uploader.Uploader, "offer", offer_and_wait)
    options, store = upload_to(s3_url), open_store(s3_url)
    with caplog.at_level("INFO", "wrinklefree"):
        run = cli_from_stage1("stage2_pretrain", *options)
    assert names_in(s3_url)[0] == "final"
    assert f"uploads to {s3_url}/default/stage2/" in caplog.text
    assert " passed over, 0 failed" in caplog.text
    for name in complete_names(store):
        if not name.endswith("step_00000004"):
            remove_upload(store, name)
    shutil.rmtree(run.folder)
    resumed = cli_from_stage1("stage2_pretrain", *options)
    assert resumed.losses == {step: uninterrupted.losses[step] for step in (5, 6)}
    assert resumed.weights == uninterrupted.weights


def test_a_killed_run_goes_on_in_an_empty_folder_to_the_bit(
    cli_from_stage1: Any, uninterrupted: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = tmp_path / "store"
    killed = cli_from_stage1.in_child(
        "stage2_pretrain", *upload_to(url), experiment="x", before=kill_at_step_5
    )
    assert killed.code == -signal.SIGKILL
    assert names_in(url) == ["step_00000002", "step_00000004"]
    shutil.rmtree(killed.folder)
    with caplog.at_level("INFO", "wrinklefree"):
        resumed = cli_from_stage1("stage2_pretrain", *upload_to(url), experiment="x")
    assert resumed.code == 0
    assert f"resuming from {CheckpointStore(resumed.folder / 'checkpoints').path(4)}" in caplog.text
    assert resumed.weights == uninterrupted.weights
    assert resumed.losses == {step: uninterrupted.losses[step] for step in (5, 6)}
    figures = ("tokens", "first_loss", "last_loss")
    assert [resumed.summary[f] for f in figures] == [uninterrupted.summary[f] for f in figures]
    assert names_in(url) == ["final", "step_00000002", "step_00000004", "step_00000006"]


def test_a_run_killed_in_an_upload_takes_the_one_before(
    cli_from_stage1: Any, uninterrupted: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = tmp_path / "store"
    run = cli_from_stage1.in_child
    killed = run("stage2_pretrain", *upload_to(url), experiment="x", before=kill_in_the_upload_of_step_4)
    assert killed.code == -signal.SIGKILL
    shutil.rmtree(killed.folder)
    assert names_in(url) == ["step_00000002"]
    with caplog.at_level("INFO", "wrinklefree"):
        resumed = cli_from_stage1("stage2_pretrain", *upload_to(url), experiment="x")
    assert "step_00000002" in caplog.text.partition("resuming from")[2]
    assert resumed.weights == uninterrupted.weights


def test_another_configuration_does_not_take_it(cli_from_stage1: Any, tmp_path: Path) -> None:
    url = tmp_path / "store"
    short = "training.max_steps=2", "training.schedule.decay=0"
    first = cli_from_stage1("stage2_pretrain", *upload_to(url), *short)
    shutil.rmtree(first.folder)
    other = cli_from_stage1("stage2_pretrain", *upload_to(url), *short, "seed=1")
    assert other.losses.keys() == {1, 2}
    assert names_in(url) == ["final", "final", "step_00000002", "step_00000002"]


def test_a_complete_run_is_complete_elsewhere_too(
    cli_from_stage1: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = tmp_path / "store"
    options = upload_to(url, "training.max_steps=2", "training.schedule.decay=0")
    first = cli_from_stage1("stage2_pretrain", *options)
    weights, summary = first.weights, first.summary
    shutil.rmtree(first.folder)
    capsys.readouterr()
    again = cli_from_stage1("stage2_pretrain", *options)
    assert '"status": "already complete"' in capsys.readouterr().out
    assert again.weights == weights
    assert again.summary == summary | {"audit_sha256": None}, "the log stays where the run was"
    assert not (again.folder / "metrics.csv").exists()
    assert cli_from_stage1("stage2_pretrain", *options, "force=true").losses.keys() == {1, 2}
    places = {name.rpartition("/")[0] for name in complete_names(open_store(url))}
    assert len(places) == 2
    assert {place.rpartition("-")[2] for place in places if "-" in place} == {"2"}


def test_the_store_keeps_as_many_as_it_should(cli_from_stage1: Any, tmp_path: Path) -> None:
    url = tmp_path / "store"
    options = upload_to(url, "training.checkpoint.upload_keep_last=1", "training.checkpoint.keep_last=1")
    run = cli_from_stage1("stage2_pretrain", *options)
    assert names_in(url) == ["final", "step_00000006"]
    assert CheckpointStore(run.folder / "checkpoints").steps() == [6]


def test_other_processes_wait_for_what_the_first_one_fetches(cli_from_stage1: Any, tmp_path: Path) -> None:
    options = upload_to(tmp_path / "store", "training.max_steps=2", "training.schedule.decay=0")
    run = cli_from_stage1("stage2_pretrain", *options)
    shutil.rmtree(run.folder)
    config = compose_config(cli_from_stage1.arguments("stage2_pretrain", "experiment=default", *options))
    stage = stage_of(config)
    start = find_start(config).digest
    identity = identify(config, start, Path(application.__file__).parent, stage.infrastructure_keys)
    first, other = (run_uploads.RunUploads(config, RunFolder(run.folder), identity) for _ in range(2))
    waiting = threading.Thread(target=other.wait_for_restored)
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    first.prepare()
    first.restore()
    waiting.join(30)
    assert not waiting.is_alive()
    assert RunFolder(run.folder).is_complete


def test_uploads_under_a_fingerprint_of_another_form_are_found(
    cli_from_stage1: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By their run.json, which also tells runs apart whose fingerprints are one."""
    before = "b" * 64
    options = [*upload_to(tmp_path / "store"), "training.max_steps=1", "training.schedule.decay=0"]
    options += ["training.schedule.warmup=0"]
    with monkeypatch.context() as patch:
        patch.setattr(identity, "digest", lambda *_: before)
        run = cli_from_stage1("stage2_pretrain", *options)
        assert run.code == 0
        shutil.rmtree(run.folder)
        assert cli_from_stage1("stage2_pretrain", *options, "seed=1").code == 1
        assert "holds a different run:\n  seed: 0 there, 1 now" in capsys.readouterr().err
    again = cli_from_stage1("stage2_pretrain", *options)
    assert again.code == 0
    assert '"status": "already complete"' in capsys.readouterr().out
    assert read_meta(again.folder / "final")["fingerprint"] == before
    assert RunFolder(again.folder).stored_identity()["fingerprint"] == before  # type: ignore[index]
    assert [name.split("/")[2] for name in complete_names(open_store(tmp_path / "store"))] == ["b" * 16]


def test_a_node_with_a_disk_of_its_own_fetches_for_itself(
    cli_from_stage1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = upload_to(tmp_path / "store", "training.max_steps=2", "training.schedule.decay=0")
    run = cli_from_stage1("stage2_pretrain", *options)
    options.append("distributed.shared_output=false")
    config = compose_config(cli_from_stage1.arguments("stage2_pretrain", "experiment=default", *options))
    start = find_start(config).digest
    infrastructure = stage_of(config).infrastructure_keys
    found = identify(config, start, Path(application.__file__).parent, infrastructure)
    assert found.fingerprint == RunFolder(run.folder).stored_identity()["fingerprint"]  # type: ignore[index]
    node = RunFolder(tmp_path / "node")
    monkeypatch.setenv("LOCAL_RANK", "0")
    run_uploads.RunUploads(config, node, found).wait_for_restored()
    assert node.is_complete


class Hold:
    """Stands for `upload_folder`: holds the first upload until a later step has been saved."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        self.names: list[str] = []

    def __call__(self, folder: Path, store: Any, name: str, advance: Any) -> Any:
        self.names.append(folder.name)
        self.began.set()
        assert self.go_on.wait(60)
        assert folder.is_dir(), "a checkpoint is not removed while it is uploaded"
        return upload_folder(folder, store, name, advance)


def test_training_goes_on_meanwhile_and_the_newest_goes_next(
    cli_from_stage1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hold, log = Hold(), StepLog.on_step_end

    def on_step_end(self: StepLog, trainer: Any, module: Any, done: int) -> None:
        log(self, trainer, module, done)
        if done == 3:
            assert hold.began.wait(60)

    def offering(self: uploader.Uploader, folder: Path) -> None:
        offer(self, folder)
        if folder.name == "step_00000006":
            hold.go_on.set()

    offer = uploader.Uploader.offer
    monkeypatch.setattr(uploader.Uploader, "offer", offering)
    monkeypatch.setattr(StepLog, "on_step_end", on_step_end)
    monkeypatch.setattr(uploader, "upload_folder", hold)
    url = tmp_path / "store"
    options = upload_to(url, "training.max_steps=6", "training.checkpoint.keep_last=1")
    with caplog.at_level("INFO", "wrinklefree"):
        run = cli_from_stage1("stage2_pretrain", *options)
    assert run.code == 0
    assert hold.names[0] == "step_00000002"
    assert hold.names[-1] == "final"
    assert "step_00000004" not in hold.names
    assert " passed over, 0 failed" in caplog.text
    assert CheckpointStore(run.folder / "checkpoints").steps() == [6]


def test_a_failed_upload_is_a_warning_and_the_next_one_a_try(
    cli_from_stage1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_once(folder: Path, *arguments: Any) -> Any:
        if folder.name == "step_00000002":
            raise UnavailableError("s3://there: no answer (503)")
        return upload_folder(folder, *arguments)

    monkeypatch.setattr(uploader, "upload_folder", fail_once)
    with caplog.at_level("INFO", "wrinklefree"):
        run = cli_from_stage1("stage2_pretrain", *upload_to(tmp_path / "store"))
    assert run.code == 0
    assert "the upload of step_00000002 failed: s3://there: no answer (503); the next" in caplog.text
    assert " 1 failed" in caplog.text
    assert "final" in names_in(tmp_path / "store")


def test_a_result_that_cannot_be_uploaded_is_an_error_and_kept(
    cli_from_stage1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: Any) -> Any:
        raise UnavailableError("s3://there: no answer (503)")

    with monkeypatch.context() as patch:
        patch.setattr(uploader, "upload_folder", fail)
        run = cli_from_stage1("stage2_pretrain", *upload_to(tmp_path / "store"))
    printed = capsys.readouterr().err
    assert run.code == 1
    assert "error: the upload of final failed: s3://there: no answer (503). " in printed
    assert f"{run.folder / 'final'} is kept on this machine; the same command uploads it" in printed
    assert run.weights
    assert names_in(tmp_path / "store") == []
    assert cli_from_stage1("stage2_pretrain", *upload_to(tmp_path / "store")).code == 0
    assert names_in(tmp_path / "store") == ["final"]


def test_a_stopped_run_has_uploaded_its_last_checkpoint(cli_from_stage1: Any, tmp_path: Path) -> None:
    run = cli_from_stage1.in_child
    stopped = run(
        "stage2_pretrain", *upload_to(tmp_path / "store"), experiment="x", before=terminate_at_step_3
    )
    assert stopped.code == 128 + signal.SIGTERM
    assert names_in(tmp_path / "store") == ["step_00000002", "step_00000003"]


def terminate_at_step_3() -> None:
    log = StepLog.on_step_end

    def on_step_end(self: StepLog, trainer: Any, module: Any, done: int) -> None:
        log(self, trainer, module, done)
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    StepLog.on_step_end = on_step_end  # type: ignore[method-assign]


def _damage(url: Path, name: str) -> None:
    full = next(found for found in complete_names(open_store(url)) if found.endswith(name))
    store = open_store(url)
    digest = check_upload(store, full).digest
    path = url / file_key(full, digest, "model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_damaged_upload_is_refused_or_passed_by(
    cli_from_stage1: Any, uninterrupted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = tmp_path / "store"
    run = cli_from_stage1.in_child
    killed = run("stage2_pretrain", *upload_to(url), experiment="x", before=kill_at_step_5)
    shutil.rmtree(killed.folder)
    _damage(url, "step_00000004")
    refused = cli_from_stage1("stage2_pretrain", *upload_to(url), experiment="x")
    assert refused.code == 1
    printed = capsys.readouterr().err
    assert "model.safetensors has other contents (SHA-256 differs)" in printed
    assert "Set resume.allow_previous=true" in printed
    allowed = upload_to(url, "resume.allow_previous=true")
    resumed = cli_from_stage1("stage2_pretrain", *allowed, experiment="x")
    assert resumed.losses.keys() == {3, 4, 5, 6}
    assert resumed.weights == uninterrupted.weights


def test_a_run_starts_from_an_upload(
    cli: Any,
    cli_from_stage1: Any,
    stage1_run: Any,
    uninterrupted: Any,
    tmp_path: Path,
    main: Any,
    capsys: Any,
) -> None:
    url = tmp_path / "store" / "models" / "start"
    upload_folder(stage1_run.folder / "final", open_store(url.parent), url.name)
    start = f"training.start_from={url}"
    run = cli("stage2_pretrain", *OPTIONS, start)
    assert run.code == 0
    assert run.weights == uninterrupted.weights
    run_json = [json.loads((r.folder / "run.json").read_text()) for r in (run, uninterrupted)]
    assert run_json[0]["fingerprint"] == run_json[1]["fingerprint"]
    assert starts_in(run) == []
    capsys.readouterr()
    assert cli("stage2_pretrain", *OPTIONS, start).code == 0
    assert '"status": "already complete"' in capsys.readouterr().out
    assert starts_in(run) == []
    shutil.rmtree(url.parent)
    capsys.readouterr()
    gone = cli("stage2_pretrain", *OPTIONS, start)
    assert gone.code == 1


def starts_in(run: Any) -> list[Path]:
    """What was fetched to start from and is still there."""
    return list(run.folder.parent.glob(".start-*"))


def test_the_manifest_of_a_start_is_read_once(
    cli: Any, stage1_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_folder(stage1_run.folder / "final", open_store(tmp_path / "store"), "start")
    read, original = list[str](), LocalStore.read

    def noting(self: LocalStore, key: str, start: int, num_bytes: int) -> bytes:
        if key.endswith("/manifest.json") and "/files/" not in key and start == 0:
            read.append(key)
        return original(self, key, start, num_bytes)

    monkeypatch.setattr(LocalStore, "read", noting)
    options = [f"training.start_from={tmp_path / 'store' / 'start'}", "training.max_steps=1"]
    assert cli("stage2_pretrain", *options, "training.schedule.warmup=0").code == 0
    assert len(read) == 1, read
    assert cli("stage2_pretrain", *options, "training.schedule.warmup=0").code == 0
    assert len(read) == 2, "a further start reads it anew"


def test_a_start_that_is_damaged_leaves_nothing(
    cli: Any, stage1_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload_folder(stage1_run.folder / "final", open_store(tmp_path / "store"), "start")
    _damage(tmp_path / "store", "start")
    run = cli("stage2_pretrain", *OPTIONS, f"training.start_from={tmp_path / 'store' / 'start'}")
    assert run.code == 1
    assert "model.safetensors has other contents (SHA-256 differs)" in capsys.readouterr().err
    assert starts_in(run) == []


@pytest.fixture
def hold(cli: Any, tmp_path: Path) -> Callable[..., Any]:
    """hold(is_complete=, has_progress=): has an upload as a run in that state does at its end."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("weights")
    upload_folder(tmp_path / "source", open_store(tmp_path / "store"), "start")
    start = f"training.start_from={tmp_path / 'store' / 'start'}"
    config = compose_config(cli.arguments("stage2_pretrain", "experiment=default", *OPTIONS, start))

    @contextmanager
    def holding(is_complete: bool = False, has_progress: bool = False) -> Iterator[Path]:
        state = SimpleNamespace(is_complete=False, has_progress=has_progress)
        with holding_start(config, state):  # type: ignore[arg-type]  # of a run's folder all that is asked
            folder = fetched_folder(config, str(tmp_path / "store" / "start"))
            assert (folder / "file").read_text() == "weights"
            state.is_complete = is_complete
            yield folder

    return holding


def test_runs_share_what_they_start_from_and_the_last_one_removes_it(hold: Any) -> None:
    with hold(is_complete=True) as folder:
        with hold(is_complete=True) as other:
            assert other == folder
        with pytest.raises(RunError), hold():
            raise RunError("another process is training there")
        assert (folder / "file").is_file()
    assert not folder.parent.exists()


@pytest.mark.parametrize(
    ("error", "has_progress", "stays"),
    [
        (None, False, True),  # a signal
        (KeyboardInterrupt(), False, True),
        (MemoryError(), False, True),
        (RunError("refused"), False, False),
        (RunError("the disk is full"), True, True),
    ],
)
def test_what_a_run_starts_from_stays_where_it_goes_on(
    hold: Any, error: BaseException | None, has_progress: bool, stays: bool
) -> None:
    with suppress(type(error or RunError())), hold(has_progress=has_progress) as folder:
        if error is not None:
            raise error
    assert folder.parent.exists() is stays
    with hold(is_complete=True):
        pass
    assert not folder.parent.exists()


def test_a_start_whose_fetching_is_cut_goes_on(
    hold: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(store: Any, name: str, target: Path, **_: Any) -> None:
        (target.parent / "part").write_text("fetched so far")
        raise UnavailableError("s3://there: no answer (503)")

    with monkeypatch.context() as patch:
        patch.setattr("wrinklefree.uploads.start.download_folder", cut)
        with pytest.raises(RunError, match="no answer"), hold():
            pass
    assert [path.name for path in tmp_path.rglob(".start-*/part")] == ["part"]


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        (
            "training.checkpoint.upload=http://there/x",
            2,
            "training.checkpoint.upload: http://there/x: unknown kind",
        ),
        ("training.checkpoint.upload=s3://id:key@bucket/x", 2, "credentials do not belong in a URL"),
        (
            "training.checkpoint.upload_keep_last=2",
            2,
            "upload_keep_last=2 without training.checkpoint.upload",
        ),
        ("training.checkpoint.upload=s3://missing-bucket/x", 1, "s3://missing-bucket/x: no answer"),
        (
            "training.start_from=s3://missing-bucket/x",
            1,
            "training.start_from: s3://missing-bucket: no answer",
        ),
        (
            "training.start_from=s3://missing-bucket",
            2,
            "training.start_from: s3://missing-bucket has no name",
        ),
        (
            "training.start_from=s3:/bucket/x",
            2,
            "training.start_from: s3:/bucket/x is no URL: write s3://bucket/x",
        ),
        ("training.checkpoint.upload=gs:bucket/x", 2, "gs:bucket/x is no URL: write gs://bucket/x"),
    ],
)
def test_what_cannot_be_is_one_line_before_the_first_step(
    cli_from_stage1: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    code: int,
    message: str,
) -> None:
    from wf_stores import Patience, opening
    from wrinklefree.uploads import start

    def impatient(url: Any) -> Any:
        return opening.open_store(url, Patience(answer_s=0.5, total_s=0.5))

    monkeypatch.setattr(start, "open_store", impatient)
    monkeypatch.setattr(run_uploads, "open_store", impatient)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    run = cli_from_stage1("stage2_pretrain", *OPTIONS, override)
    printed = capsys.readouterr().err
    assert run.code == code
    assert message in printed
    assert "id:key" not in printed
    assert "Traceback" not in printed
    assert not (run.folder / "run.json").exists()
