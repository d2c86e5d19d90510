"""`verify` passes honest exports, names what is wrong with others; the command lines around it."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wf_converter.hf_export import prepare_hf
from wf_converter.verify import verify


@pytest.mark.parametrize(
    ("case", "kind"), [("llama-tensor", "auto"), ("mistral-group64", "q4_0"), ("qwen3-group64", "q2_0")]
)
def test_honest_gguf_passes(checkpoint, ids, tmp_path, case, kind):
    prepare_gguf(checkpoint(case), kind).write(tmp_path / "model.gguf")
    found = verify(checkpoint(case), tmp_path / "model.gguf", ids)
    assert found.passed, found.problems
    assert found.runtime == "llama.cpp"
    assert found.weights.num_matrices == 14
    assert found.weights.max_scale_error < 5e-4
    assert abs(found.scales.relative_error) < 0.002
    assert json.loads(found.to_json())["passed"] is True


@pytest.mark.parametrize(
    ("case", "linear_class"),
    [("llama-tensor", "bitlinear"), ("llama-tensor", "autobitlinear"), ("qwen2-group128", "bitlinear")],
)
def test_honest_folder_passes(checkpoint, ids, tmp_path, case, linear_class):
    prepare_hf(checkpoint(case), linear_class).write(tmp_path / "out")
    found = verify(checkpoint(case), tmp_path / "out", ids)
    assert found.passed, found.problems
    assert found.runtime == "transformers"


@pytest.mark.parametrize(
    ("case", "kind", "stem", "name"),
    [
        ("llama-tensor", "tq2_0", "blk.1.ffn_up", "model.layers.1.mlp.up_proj.weight"),
        ("llama-group64", "q4_0", "blk.0.attn_k", "model.layers.0.self_attn.k_proj.weight"),
    ],
)
def test_one_wrong_scale_is_named(checkpoint, ids, tmp_path, with_wrong_scales, case, kind, stem, name):
    """Also in ffn_up before SubLN, where the network cancels it and no log-prob shows it."""
    export = prepare_gguf(checkpoint(case), kind)
    wrong = with_wrong_scales(export.tensors, lambda picked: picked == stem, 1.01)
    dataclasses.replace(export, tensors=wrong).write(tmp_path / "wrong.gguf")
    found = verify(checkpoint(case), tmp_path / "wrong.gguf", ids)
    assert not found.passed
    assert found.weights.max_scale_error == pytest.approx(0.01, abs=1.5e-3)  # and fp16 roundings
    assert any(name in problem for problem in found.problems)


@pytest.mark.parametrize("factor", [1.01, 0.99])
@pytest.mark.parametrize(("case", "kind"), [("llama-tensor", "q2_0"), ("qwen3-group64", "q4_0")])
def test_log_probs_tell_the_size_of_a_scale_error(
    checkpoint, ids, tmp_path, with_wrong_scales, case, kind, factor
):
    export = prepare_gguf(checkpoint(case), kind)
    wrong = with_wrong_scales(export.tensors, lambda stem: True, factor)
    dataclasses.replace(export, tensors=wrong).write(tmp_path / "wrong.gguf")
    found = verify(checkpoint(case), tmp_path / "wrong.gguf", ids)
    assert any("log-probs say that scales are off" in problem for problem in found.problems)
    assert found.scales.relative_error == pytest.approx(factor - 1, abs=0.003)
    assert found.scales.standard_error < 0.002


def test_unpermuted_rows_are_caught_by_codes_and_log_probs(checkpoint, ids, tmp_path, monkeypatch):
    from wf_converter import gguf_plan

    with monkeypatch.context() as patch:
        patch.setattr(gguf_plan, "permute_rows", lambda arch, name, array, opened: array)
        prepare_gguf(checkpoint("llama-group64")).write(tmp_path / "wrong.gguf")
    found = verify(checkpoint("llama-group64"), tmp_path / "wrong.gguf", ids)
    assert found.weights.num_wrong_codes > 1000
    assert found.judged.mean_abs_delta > found.tolerance
    assert len(found.problems) >= 2


def test_the_default_tolerance_is_what_the_last_bits_do_where_that_is_more(
    checkpoint, ids, tmp_path, monkeypatch
):
    from wf_converter import verify as module

    path = tmp_path / "model.gguf"
    prepare_gguf(checkpoint("llama-group64")).write(path)
    monkeypatch.setattr(module, "DEFAULT_TOLERANCE", 0.0)  # any difference is too large, but for the noise
    found = verify(checkpoint("llama-group64"), path, ids)
    assert found.judged.mean_abs_delta > 0
    assert 0 < found.tolerance < 0.1
    strict = verify(checkpoint("llama-group64"), path, ids, 0.0)
    assert any("log-probs differ by" in problem for problem in strict.problems)


def test_export_of_another_checkpoint_fails(checkpoint, ids, tmp_path):
    prepare_gguf(checkpoint("llama-group64")).write(tmp_path / "other.gguf")
    other = checkpoint("llama-group64", scheme="group128")
    assert not verify(other, tmp_path / "other.gguf", ids).passed


def test_too_few_tokens_prove_nothing(checkpoint, tmp_path):
    with pytest.raises(ExportError, match="63 tokens are too few"):
        verify(checkpoint("llama-tensor"), tmp_path / "x.gguf", [3] * 63)


def test_a_file_that_llamacpp_refuses(checkpoint, ids, tmp_path):
    from wf_converter.scores import llamacpp_scores

    export = prepare_gguf(checkpoint("llama-tensor"))
    kept = [tensor for tensor in export.tensors if "attn_sub_norm" not in tensor.name]
    dataclasses.replace(export, tensors=kept).write(tmp_path / "bad.gguf")
    with pytest.raises(ExportError, match=r"llama\.cpp does not load"):
        llamacpp_scores(tmp_path / "bad.gguf", ids)


# ---- command lines


@pytest.fixture
def run():
    """Runs one of the commands as their entries do."""
    from wf_converter.command import command_line
    from wf_converter.export import export
    from wf_converter.prove import verify_command

    commands = {"export": export, "verify_command": verify_command}

    def invoke(command, *args):
        return CliRunner().invoke(command_line(commands[command]), [str(arg) for arg in args])

    return invoke


def test_export_and_verify_commands(run, checkpoint, tmp_path):
    folder, path = checkpoint("llama-tensor-192"), tmp_path / "model.gguf"
    args = ["--checkpoint", folder, "--output", path, "--verify", "--tokens", 80]
    done = run("export", *args, "--json", tmp_path / "proof.json")
    assert done.exit_code == 0, done.output
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert proof["passed"] is True
    assert proof["tokens"] == 80
    assert "q4_0" in done.output
    assert "fast exact type" in done.output
    again = run("export", "--checkpoint", folder, "--output", path)
    assert again.exit_code == 2
    assert "exists" in again.output
    checked = run("verify_command", "--checkpoint", folder, "--export", path, "--tolerance", 0)
    assert checked.exit_code == 1
    assert "NOT PROVED" in checked.output


def test_hf_command(run, checkpoint, tmp_path):
    args = ["--checkpoint", checkpoint("qwen2-group128"), "--output", tmp_path / "out"]
    done = run("export", *args, "--format", "hf")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_refusal_is_a_message_not_a_traceback(checkpoint, tmp_path, monkeypatch, capsys):
    from wf_converter.export import main

    folder = str(checkpoint("llama-group64"))
    args = ["--checkpoint", folder, "--output", str(tmp_path / "x.gguf"), "--type", "tq2_0"]
    monkeypatch.setattr("sys.argv", ["export.py", *args])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "model.layers.0" in message
    assert "q2_0, q4_0, f16" in message
    assert not (tmp_path / "x.gguf").exists()


def test_help_does_not_wait_for_torch():
    import subprocess
    import sys

    code = (
        "import sys; from wf_converter.export import main\n"
        "sys.argv = ['export.py', '--help']\n"
        "try: main()\n"
        "except SystemExit: sys.exit(3 if 'torch' in sys.modules else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_damaged_checkpoint_is_refused(checkpoint, ids, tmp_path):
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint("llama-tensor"), folder)
    (folder / "wrinklefree.json").write_text("{")
    with pytest.raises(ExportError, match="is damaged"):
        prepare_gguf(folder)
