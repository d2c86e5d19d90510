"""Exports go to a hub in one commit, and whatever goes wrong is a line that says what to do."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_server import CUT, TOKEN, Hub, connected
from typer.testing import CliRunner

from wf_converter import hub as hub_module
from wf_converter.card import read_card
from wf_converter.command import command_line
from wf_converter.export import export
from wf_converter.prove import verify_command
from wf_converter.publish import publish

pytestmark = pytest.mark.filterwarnings(  # of the hub's client, about how it hands a file to its own
    "ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"
)
COMMANDS = {"export": export, "publish": publish, "verify": verify_command}
NAME = "me/model"


def run(command: str, *arguments: object) -> Any:
    return CliRunner().invoke(command_line(COMMANDS[command]), [str(argument) for argument in arguments])


def line(done: Any) -> str:
    """The one line of an error; progress bars end with a carriage return."""
    assert "Traceback" not in done.output
    lines = [text for text in done.stderr.splitlines() if text.startswith(("error: ", "refused: "))]
    assert len(lines) == 1, done.output
    return lines[0]


@pytest.fixture(scope="module")
def exported(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.gguf and its card, without a proof."""
    folder = tmp_path_factory.mktemp("exported")
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--output", folder / "model.gguf"]
    assert run("export", *arguments, "--license", "mit").exit_code == 0
    return folder


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(exported, tmp_path / "export")) / "model.gguf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A hub of this test, whose token is in the environment; nobody waits between tries."""
    with connected(monkeypatch, tmp_path) as running:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def committed(hub: Hub, name: str = NAME, branch: str = "main") -> dict[str, bytes]:
    return hub.repositories[name].files(branch)


def test_an_export_is_one_commit_with_card_and_checksums(hub: Hub, model: Path, tmp_path: Path) -> None:
    done = run("publish", model, NAME, "--no-verify", "--commit-message", "First try")
    assert done.exit_code == 0, done.output
    assert f"published {hub.url}/{NAME}/commit/" in done.stderr
    files = committed(hub)
    assert files.keys() == {"model.gguf", "README.md", "SHA256SUMS"}
    assert files["model.gguf"] == model.read_bytes()
    assert files["README.md"] == (model.parent / "model.card.md").read_bytes()
    assert b"hf download me/model model.gguf --local-dir ." in files["README.md"]
    assert hub.repositories[NAME].messages == ["First try"]
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    for name, data in files.items():
        (fetched / name).write_bytes(data)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=fetched, check=True)


@pytest.mark.parametrize("tells_oids", [True, False])
def test_what_is_there_already_is_no_commit(hub: Hub, model: Path, tells_oids: bool) -> None:
    hub.tells_oids = tells_oids
    first = run("publish", model, NAME, "--no-verify")
    second = run("publish", model, NAME, "--no-verify", "--commit-message", "Again")
    assert second.exit_code == 0, second.output
    assert second.stderr.split() == ["unchanged:", first.stderr.split()[-1]]
    assert len(hub.repositories[NAME].messages) == 1
    assert len([request for request in hub.requests if request.startswith("PUT")]) == 1
    hub.repositories[NAME].commit("main", {"model.gguf": bytes(model.stat().st_size)}, "by somebody")
    assert "published " in run("publish", model, NAME, "--no-verify").stderr
    assert committed(hub)["model.gguf"] == model.read_bytes()


def test_a_folder_with_a_gguf_file_is_told_which_file_to_give(hub: Hub, model: Path) -> None:
    for more in ([], ["--checkpoint", model.parent]):
        done = run("publish", model.parent, NAME, *more)
        assert done.exit_code == 2
        assert line(done) == f"error: {model.parent} is a folder; give its file, {model}"


def test_the_content_store_takes_large_files(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub's client does by default."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    assert run("publish", model, NAME, "--no-verify").exit_code == 0
    assert hub.stored_bytes > model.stat().st_size / 2  # chunks may be compressed
    assert committed(hub)["model.gguf"] == hashlib.sha256(model.read_bytes()).hexdigest().encode()


def test_a_folder_is_published_as_it_is(hub: Hub, checkpoint: Any, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    arguments = ["--checkpoint", checkpoint("llama-tensor"), "--format", "hf", "--output", folder]
    done = run("export", *arguments, "--license", "mit", "--push-to-hub", NAME, "--no-verify")
    assert done.exit_code == 0, done.output
    files = committed(hub)
    assert files.keys() == {path.name for path in folder.iterdir()} | {"SHA256SUMS"}
    assert all(files[path.name] == path.read_bytes() for path in folder.iterdir())
    assert run("export", *arguments, "--license", "mit", "--overwrite").exit_code == 0  # the card is ours


def test_export_proves_before_it_publishes(hub: Hub, checkpoint: Any, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--output", model, "--license", "mit"]
    done = run("export", *arguments, "--tokens", "96", "--push-to-hub", NAME)
    assert done.exit_code == 0, done.output
    findings = json.loads(done.stdout)
    proof = read_card(model).record.proof
    assert proof is not None
    assert proof.mean_abs_delta == findings["judged"]["mean_abs_delta"]
    assert proof.as_trained_top1_agreement == findings["as_trained"]["top1_agreement"]
    said = f"{findings['judged']['mean_abs_delta']:.5f} nats"
    assert said in committed(hub)["README.md"].decode()


def test_a_failed_proof_publishes_nothing(hub: Hub, checkpoint: Any, tmp_path: Path) -> None:
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--output", tmp_path / "model.gguf"]
    done = run("export", *arguments, "--license", "mit", "--tolerance", "0", "--push-to-hub", NAME)
    assert done.exit_code == 1
    assert "NOT PROVED" in done.stderr
    assert hub.repositories == {}
    assert "has not been proved" in line(run("publish", tmp_path / "model.gguf", NAME))


def test_an_export_without_a_proof_is_refused_until_one_is_given(
    hub: Hub, checkpoint: Any, model: Path, tmp_path: Path
) -> None:
    done = run("publish", model, NAME)
    assert done.exit_code == 2
    assert "has not been proved" in line(done)
    proof = tmp_path / "proof.json"
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--export", model, "--tokens", "96"]
    assert run("verify", *arguments, "--json", proof).exit_code == 0
    assert run("publish", model, NAME, "--report", proof).exit_code == 0
    assert b"Proof of the export" in committed(hub)["README.md"]


REFUSED, FAILED = 2, 1
FAULTS = {
    "a token that is refused": ({"whoami": [401]}, REFUSED, "does not take the token"),
    "a token that expired meanwhile": ({"preupload": [401]}, REFUSED, "does not take the token"),
    "no right to create": ({"repos/create": [403]}, REFUSED, "may not write to me/model"),
    "no right to write": ({"preupload": [403]}, REFUSED, "may not write to me/model"),
    "no right to commit": ({"commit": [403]}, REFUSED, "may not write to me/model"),
    "a full quota": ({"batch": [(403, "Storage quota exceeded")]}, REFUSED, "there is no room"),
    "a full disk there": ({"PUT": [507]}, REFUSED, "there is no room"),
    "a plan to be paid": ({"repos/create": [402]}, REFUSED, "there is no room"),
    "a conflict": ({"commit": [409]}, FAILED, "was changed by somebody else"),
    "a commit in between": ({"commit": [412]}, FAILED, "was changed by somebody else"),
    "a repository that vanished": ({"preupload": [404]}, REFUSED, "is not there, or hidden"),
    "a refusal": ({"commit": [(400, "too many files")]}, REFUSED, "too many files"),
    "a hub that is down": ({"repos/create": [503] * 99}, FAILED, "does not serve this now (503)"),
    "storage that is down": ({"PUT": [503] * 99}, FAILED, "does not serve this now (503)"),
    "a card that cannot be asked for": ({"HEAD": [503] * 99}, FAILED, "the connection to"),
    "a cut at the beginning": ({"repos/create": [CUT]}, FAILED, "the connection to"),
    "a cut in a file": ({"PUT": [CUT] * 99}, FAILED, "the connection to"),
    "a cut commit": ({"commit": [CUT]}, FAILED, "the connection to"),
    "the page of a proxy": ({"validate": [200] * 99}, FAILED, "does not answer as a hub does"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_everything_as_it_was(hub: Hub, model: Path, fault: str) -> None:
    faults, code, words = FAULTS[fault]
    hub.faults.update(faults)
    before = model.read_bytes()
    done = run("publish", model, NAME, "--no-verify")
    assert done.exit_code == code, done.output
    assert words in line(done)
    assert TOKEN not in done.output
    assert "signature" not in done.output
    if "whoami" not in faults:
        again = re.search(r"`wf publish (.*)` sends it$", line(done))
        assert again is not None
    assert model.read_bytes() == before
    repository = hub.repositories.get(NAME)
    assert repository is None or repository.messages == []
    hub.faults.clear()
    words = [str(model), NAME, "--no-verify"] if "whoami" in faults else shlex.split(again[1])
    assert run("publish", *words).exit_code == 0
    assert committed(hub)["model.gguf"] == before


@pytest.mark.parametrize(
    "request_",
    [
        *("whoami", "repos/create", "GET /api/models", "HEAD", "paths-info", "validate", "preupload"),
        *("batch", "PUT", "commit"),
    ],
)
def test_a_hub_that_is_down_for_a_moment_is_asked_again(hub: Hub, model: Path, request_: str) -> None:
    hub.faults[request_] = [503, 503]
    done = run("publish", model, NAME, "--no-verify")
    assert done.exit_code == 0, done.output
    assert hub.faults[request_] == []
    assert committed(hub)["model.gguf"] == model.read_bytes()


@pytest.mark.parametrize("status", [401, 403])
def test_the_content_store_s_refusals_are_told(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    hub.faults["xet-write-token"] = [status] * 9
    done = run("publish", model, NAME, "--no-verify")
    assert done.exit_code == 2
    assert f"({status})" in line(done)


def test_a_repository_of_somebody_else_is_not_touched(hub: Hub, model: Path) -> None:
    assert run("publish", model, NAME, "--no-verify").exit_code == 0
    hub.writable = ("others",)
    done = run("publish", model, NAME, "--no-verify", "--license", "apache-2.0")
    assert done.exit_code == 2
    assert "may not write to me/model" in line(done)
    assert len(hub.repositories[NAME].messages) == 1


@pytest.mark.parametrize("whose", ["another author's", "ours, changed", "damaged"])
def test_a_card_that_somebody_wrote_stays(hub: Hub, model: Path, whose: str) -> None:
    assert run("publish", model, NAME, "--no-verify").exit_code == 0
    theirs = {
        "another author's": b"---\nlicense: mit\n---\n# My model\n\nwrinklefree: no\n",
        "ours, changed": committed(hub)["README.md"] + b"\nThanks to all.\n",
        "damaged": b"---\nwrinklefree: [\n---\n\xff",
    }[whose]
    hub.repositories[NAME].commit("main", {"README.md": theirs}, "by hand")
    done = run("publish", model, NAME, "--no-verify")
    assert done.exit_code == 2
    assert "--overwrite-card" in line(done)
    assert committed(hub)["README.md"] == theirs
    assert run("publish", model, NAME, "--no-verify", "--overwrite-card").exit_code == 0
    assert b"# llama-group64" in committed(hub)["README.md"]


def test_a_commit_meanwhile_is_not_written_over(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = hub_module._card_there

    def look_and_wait(*arguments: Any) -> str | None:
        found = look(*arguments)
        hub.repositories[NAME].commit("main", {"README.md": b"# Mine"}, "meanwhile")
        return found

    monkeypatch.setattr(hub_module, "_card_there", look_and_wait)
    done = run("publish", model, NAME, "--no-verify")
    assert done.exit_code == 1
    assert "was changed by somebody else meanwhile" in line(done)
    assert committed(hub) == {"README.md": b"# Mine"}


def test_private_means_private(hub: Hub, model: Path) -> None:
    assert run("publish", model, NAME, "--no-verify", "--private").exit_code == 0
    assert hub.repositories[NAME].private
    assert run("publish", model, NAME, "--no-verify", "--private").exit_code == 0
    hub.repositories[NAME].private = False
    done = run("publish", model, NAME, "--no-verify", "--private", "--license", "apache-2.0")
    assert done.exit_code == 2
    assert "is public, and --private was asked for" in line(done)
    assert len(hub.repositories[NAME].messages) == 1


def test_a_branch_is_made_and_the_others_stay(hub: Hub, model: Path) -> None:
    for license in ("mit", "apache-2.0"):  # once made, once there
        arguments = ["--no-verify", "--revision", "v2/q4", "--license", license]
        assert run("publish", model, NAME, *arguments).exit_code == 0
    assert committed(hub, branch="v2/q4")["model.gguf"] == model.read_bytes()
    assert committed(hub) == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model", "names no owner: give ORG/model"),
        ("a/b/c", "is no repository"),
        ("me/mo del", "is no repository"),
        ("me/модель", "is no repository"),
        ("me/..", "is no repository"),
        ("me/a--b", "is no repository"),
        ("/model", "is no repository"),
        ("me/", "is no repository"),
        ("me/x\x1b[2J", "is no repository"),
        ("https://hub/me/model", "is no repository"),
        ("m" * 200 + "/x", "is no repository"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anything(
    hub: Hub, model: Path, checkpoint: Any, tmp_path: Path, name: str, words: str
) -> None:
    done = run("publish", model, name, "--no-verify")
    assert done.exit_code == 2
    assert words in line(done)
    assert "\x1b" not in done.output
    output = tmp_path / "new.gguf"
    done = run(
        "export", "--checkpoint", checkpoint("llama-group64"), "--output", output, "--push-to-hub", name
    )
    assert done.exit_code == 2
    assert words in line(done)
    assert not output.exists()
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["", "a b", "-x", "a..b", "x.lock", "a//b", "ä", "a\n", ".a", "a~1"])
def test_a_branch_that_cannot_be_is_refused(hub: Hub, model: Path, revision: str) -> None:
    done = run("publish", model, NAME, f"--revision={revision}")
    assert done.exit_code == 2
    assert "--revision" in line(done)
    assert hub.requests == []


@pytest.mark.parametrize("message", ["", "  ", "a\nb"])
def test_a_message_that_cannot_be_is_refused(hub: Hub, model: Path, message: str) -> None:
    done = run("publish", model, NAME, f"--commit-message={message}")
    assert done.exit_code == 2
    assert "--commit-message" in line(done)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "there is no token"),
        ("hf_" + "w" * 30, "does not take the token"),
        ("hf_secret\x07secret", "characters"),
        ("hf_sécret", "characters"),
    ],
)
def test_a_token_is_asked_for_before_the_export(
    hub: Hub, checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: Any, words: str
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    output = tmp_path / "new.gguf"
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--output", output, "--license", "mit"]
    done = run("export", *arguments, "--push-to-hub", NAME)
    assert done.exit_code == 2
    assert words in line(done)
    assert "hf auth login" in line(done)
    assert token is None or token not in done.output
    assert not output.exists()


def test_an_offline_client_is_told(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    done = run("publish", model, NAME, "--no-verify")
    assert done.exit_code == 2
    assert "HF_HUB_OFFLINE" in line(done)


def test_the_licence_is_asked_for_before_the_export(hub: Hub, checkpoint: Any, tmp_path: Path) -> None:
    output = tmp_path / "new.gguf"
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--output", output]
    done = run("export", *arguments, "--push-to-hub", NAME)
    assert done.exit_code == 2
    assert "give it with --license" in line(done)
    assert not output.exists()
    assert run("export", *arguments).exit_code == 0  # without a hub it is nobody's business
    assert "give it with --license" in line(run("publish", output, NAME, "--no-verify"))
    assert run("publish", output, NAME, "--no-verify", "--license", "MIT").exit_code == 0
    assert b"\nlicense: mit\n" in committed(hub)["README.md"]


def test_a_licence_that_the_hub_does_not_know_is_told(hub: Hub, model: Path) -> None:
    done = run("publish", model, NAME, "--no-verify", "--license", "made-up")
    assert done.exit_code == 2
    assert '"license" must be one of a list' in line(done)
    assert "--license" in line(done)


def test_a_dry_run_shows_everything_and_sends_nothing(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    card = (model.parent / "model.card.md").read_text()
    done = run("publish", model, NAME, "--no-verify", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "hf download me/model model.gguf" in done.stdout
    assert f"{model.stat().st_size:,}  model.gguf" in done.stdout
    assert "SHA256SUMS" in done.stdout
    assert hub.requests == []
    assert (model.parent / "model.card.md").read_text() == card


@pytest.mark.parametrize("name", ["my model`.gguf", "SHA256SUMS"])
def test_a_name_that_no_repository_holds_is_refused(
    hub: Hub, checkpoint: Any, tmp_path: Path, name: str
) -> None:
    output = tmp_path / name
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--output", output, "--license", "mit"]
    assert run("export", *arguments).exit_code == 0
    done = run("publish", output, NAME, "--no-verify")
    assert done.exit_code == 2
    assert "is no name for a file of a repository" in line(done)
    assert hub.repositories == {}


def test_an_adapter_elsewhere_is_refused_before_the_export(hub: Hub, checkpoint: Any, tmp_path: Path) -> None:
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--output", tmp_path / "new.gguf"]
    arguments += ["--license", "mit", "--adapter", tmp_path / "other" / "adapter.gguf"]
    done = run("export", *arguments, "--push-to-hub", NAME)
    assert done.exit_code == 2
    assert "has to lie beside" in line(done)
    assert not (tmp_path / "new.gguf").exists()


def test_a_file_without_a_suffix_is_published(hub: Hub, model: Path, checkpoint: Any) -> None:
    plain = model.with_name("model-q4")
    arguments = ["--checkpoint", checkpoint("llama-group64"), "--output", plain, "--license", "mit"]
    done = run("export", *arguments, "--push-to-hub", NAME, "--no-verify")
    assert done.exit_code == 0, done.output
    assert committed(hub)["model-q4"] == plain.read_bytes()


@pytest.mark.parametrize("endpoint", ["nonsense", "http://127.0.0.1:1", "http://user:secret@127.0.0.1:1"])
def test_an_endpoint_that_leads_nowhere_is_named(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    done = run("publish", model, NAME, "--no-verify")
    assert done.exit_code == 1
    assert "the connection to" in line(done)
    assert endpoint.rpartition("@")[2] in line(done)
    assert "secret" not in done.output


def test_the_token_goes_to_the_hub_alone(hub: Hub, model: Path) -> None:
    done = run("publish", model, NAME, "--no-verify")
    assert hub.authorizations == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.output
    assert all(TOKEN.encode() not in data for data in committed(hub).values())
