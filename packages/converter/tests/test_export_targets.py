"""What `wf export` and `wf verify` refuse before anything is written, and what a full disk leaves."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wf_converter.command import command_line
from wf_converter.export import export
from wf_converter.prove import verify_command

COMMANDS = {"export": export, "verify": verify_command}


def run(command: str, *arguments: object):
    return CliRunner().invoke(command_line(COMMANDS[command]), [str(argument) for argument in arguments])


def refused(done) -> str:
    """The one line of a refusal."""
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    (line,) = done.output.strip().splitlines()
    return line


@pytest.fixture
def folder(checkpoint) -> Path:
    return checkpoint("llama-group64")


@pytest.mark.parametrize("format", ["gguf", "hf"])
@pytest.mark.parametrize("target", ["checkpoint", "inside", "parent", "foreign", "device", "link"])
def test_a_target_that_is_not_ours_is_refused(folder, tmp_path, format, target):
    source = tmp_path / "source"
    shutil.copytree(folder, source / "final")
    foreign = tmp_path / "p"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("keep")
    (tmp_path / "link").symlink_to("p")
    output = {
        "checkpoint": source / "final",
        "inside": source / "final" / "model.gguf",
        "parent": source,
        "foreign": foreign,
        "device": Path("/dev/null"),
        "link": tmp_path / "link",
    }[target]
    before = sorted(path for path in tmp_path.rglob("*"))
    done = run(
        "export", "--checkpoint", source / "final", "--format", format, "--output", output, "--overwrite"
    )
    assert str(output) in refused(done)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert (foreign / "thesis.txt").read_text() == "keep"
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_an_export_replaces_an_export_when_asked(folder, tmp_path):
    arguments = ["--checkpoint", folder, "--format", "hf", "--output", tmp_path / "out"]
    assert run("export", *arguments).exit_code == 0
    assert "pass --overwrite" in refused(run("export", *arguments))
    assert run("export", *arguments, "--overwrite").exit_code == 0
    record = json.loads((tmp_path / "out" / "wrinklefree.json").read_text())
    files = {*record["export"]["files"], "wrinklefree.json", "README.md"}
    assert files == {path.name for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "thesis.txt").write_text("keep")
    assert "thesis.txt" in refused(run("export", *arguments, "--overwrite"))
    assert "export already" in refused(
        run("export", "--checkpoint", tmp_path / "out", "--output", tmp_path / "x.gguf")
    )


@pytest.mark.parametrize(
    ("template", "fault"), [("{{ messages[0].content }}", None), ("{{ 'a' * 10 ** 12 }}", "more than 512 MB")]
)
def test_a_template_that_the_native_engine_refuses_is_told(folder, tmp_path, template, fault):
    source = shutil.copytree(folder, tmp_path / "final")
    (source / "chat_template.jinja").write_text(template)
    done = run("export", "--checkpoint", source, "--output", tmp_path / "out.gguf")
    assert done.exit_code == 0, done.output
    assert ("warning: wf serve will not take this: the chat template" in done.stderr) is bool(fault)
    assert (fault or "") in done.stderr


def test_a_folder_without_a_tokenizer_is_exported_and_told(folder, tmp_path):
    source = shutil.copytree(folder, tmp_path / "final")
    (source / "tokenizer.json").unlink()
    done = run("export", "--checkpoint", source, "--format", "hf", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "wf serve will not take this: " in done.stderr
    assert "tokenizer.json" in done.stderr


@pytest.mark.parametrize("target", ["thesis.json", "final/config.json", "out.gguf", "p", "/dev/null"])
def test_a_report_replaces_reports_only(folder, tmp_path, target):
    source = tmp_path / "final"
    shutil.copytree(folder, source)
    (tmp_path / "thesis.json").write_text('{"my": "thesis"}')
    (tmp_path / "p").mkdir()
    before = (source / "config.json").read_bytes()
    arguments = ["--checkpoint", source, "--output", tmp_path / "out.gguf", "--verify", "--json"]
    refused(run("export", *arguments, tmp_path / target))
    assert not (tmp_path / "out.gguf").exists()
    assert (source / "config.json").read_bytes() == before
    assert (tmp_path / "thesis.json").read_text() == '{"my": "thesis"}'


@pytest.mark.parametrize(
    ("format", "option", "value", "owner"),
    [
        ("hf", "--type", "q8_0", "--format gguf"),
        ("hf", "--embeddings", "f16", "--format gguf"),
        ("gguf", "--linear-class", "bitlinear", "--format hf"),
        ("gguf", "--dtype", "bfloat16", "--format hf"),
        ("gguf", "--tokens", "128", "--verify"),
        ("gguf", "--tolerance", "0.1", "--verify"),
        ("hf", "--json", "x.json", "--verify"),
        ("hf", "--private", None, "--push-to-hub"),
        ("gguf", "--revision", "main", "--push-to-hub"),
        ("gguf", "--commit-message", "x", "--push-to-hub"),
        ("gguf", "--overwrite-card", None, "--push-to-hub"),
        ("gguf", "--dry-run", None, "--push-to-hub"),
    ],
)
def test_options_without_effect_are_refused(folder, tmp_path, format, option, value, owner):
    arguments = ["--checkpoint", folder, "--output", tmp_path / "x", "--format", format, option]
    done = run("export", *arguments, *([] if value is None else [value]))
    assert f"{option} belongs to {owner}" in refused(done)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["export", "verify"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tokens", "0"),
        ("--tokens", "-5"),
        ("--tokens", "9999999"),
        ("--tolerance", "nan"),
        ("--tolerance", "inf"),
        ("--tolerance", "-1"),
        ("--text", "nowhere.txt"),
        ("--text", "/dev"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_written(folder, tmp_path, command, option, value):
    path = tmp_path / "x.gguf"
    target = ["--output", path, "--verify"] if command == "export" else ["--export", path]
    done = run(command, "--checkpoint", folder, *target, option, value)
    assert done.exit_code == 2
    assert value in done.output
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("contents", "message"), [(b"", "0 tokens"), (b"word", "too few"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_text_that_proves_nothing_is_refused(folder, tmp_path, contents, message):
    (tmp_path / "text.txt").write_bytes(contents)
    done = run(
        "export",
        "--checkpoint",
        folder,
        "--output",
        tmp_path / "x",
        "--verify",
        "--text",
        tmp_path / "text.txt",
    )
    assert message in refused(done)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["nowhere", "empty", "dense.gguf", "checkpoint", "other"])
def test_verify_names_what_is_no_export(checkpoint, folder, tmp_path, name, tiny_llama):
    (tmp_path / "empty").mkdir()
    (tmp_path / "dense.gguf").write_bytes(b"GGUF")
    shutil.copytree(folder, tmp_path / "checkpoint")
    other = checkpoint("llama-tensor-192")
    assert (
        run("export", "--checkpoint", other, "--format", "hf", "--output", tmp_path / "other").exit_code == 0
    )
    line = refused(run("verify", "--checkpoint", folder, "--export", tmp_path / name))
    assert str(tmp_path / name) in line
    if name == "other":
        assert "hidden_size is 192 there and 256 in the checkpoint" in line


DAMAGES = {
    "config.json": [
        "{",
        "[]",
        '{"model_type": 3}',
        '{"model_type": "llama", "hidden_size": "x"}',
        '{"model_type": "llama", "num_attention_heads": 0}',
        '{"model_type": "llama", "layer_types": 3}',
    ],
    "wrinklefree.json": ["{", "[]", '{"format": 1, "conversion": 5}', '{"format": 1, "conversion": {}}'],
    "model.safetensors": ["", "x" * 100],
    "tokenizer.json": ["{", "[]", "{}", '{"model": {"type": "BPE"}}'],
}


@pytest.mark.parametrize(
    ("file", "text"), [(file, text) for file, texts in DAMAGES.items() for text in texts]
)
def test_a_damaged_checkpoint_is_one_line(folder, tmp_path, file, text):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / file).write_text(text)
    done = run("export", "--checkpoint", damaged, "--output", tmp_path / "x.gguf", "--verify")
    assert done.exit_code in (1, 2)
    assert isinstance(done.exception, SystemExit), done.exception
    (line,) = done.output.strip().splitlines()
    assert "damaged" in line
    assert not (tmp_path / "x.gguf").exists()


IN_A_SMALL_FILE_SYSTEM = """
import os, subprocess, sys
from wf_converter import export
folder, checkpoint = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], check=True)
for kind in ("gguf", "hf"):
    sys.argv[1:] = ["--checkpoint", checkpoint, "--format", kind, "--output", folder + "/" + kind]
    try:
        export.main()
    except SystemExit as stopped:
        assert stopped.code == 1, stopped.code
    assert os.listdir(folder) == [], os.listdir(folder)
"""


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("format", ["gguf", "hf"])
def test_a_file_that_cannot_be_finished_is_one_line_and_leaves_nothing(folder, tmp_path, format):
    """The system refuses a write in the middle: here beyond a limit of file sizes."""
    output = tmp_path / "x"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, old[1]))
    try:
        done = run("export", "--checkpoint", folder, "--format", format, "--output", output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert done.exit_code == 1
    (line,) = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert line == f"error: {output}: File too large; raise the limit of file sizes (ulimit -f)"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path):
    if not may_mount():
        pytest.skip("this machine allows no mount in a namespace of its own")
    command = ["unshare", "-rm", sys.executable, "-c", IN_A_SMALL_FILE_SYSTEM, str(tmp_path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    message = "No space left on device; free some space, or write to another disk"
    for kind, error in zip(("gguf", "hf"), errors, strict=True):
        assert error.startswith(f"error: {tmp_path / kind}: {message} (")
        assert error.endswith(" MB are free now)")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("format", ["gguf", "hf"])
def test_exported_files_have_the_users_umask(folder, tmp_path, format):
    output = tmp_path / "x"
    old = os.umask(0o027)
    try:
        assert run("export", "--checkpoint", folder, "--format", format, "--output", output).exit_code == 0
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes.pop("x") == (0o640 if format == "gguf" else 0o750)
    assert set(modes.values()) <= {0o640}
