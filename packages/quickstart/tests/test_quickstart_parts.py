"""The quickstart's parts without the other applications: options, text, state, children, sizes, server."""

from __future__ import annotations

import io
import json
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from wf_deployer.errors import CommandError
from wf_quickstart import engines, llamacpp, steps
from wf_quickstart.children import Child, run_child, started, stop
from wf_quickstart.display import Display
from wf_quickstart.gguf_sizes import gguf_sizes
from wf_quickstart.options import parse_options
from wf_quickstart.state import State, locked
from wf_quickstart.steps import Context, _quoted
from wf_quickstart.text import python_reference, user_texts

# ---- options


def test_options_of_the_packaged_model(tmp_path: Path) -> None:
    options = parse_options("packaged", 10, tmp_path, [])
    assert options.identity() == {
        "model": "packaged",
        "steps": 10,
        "text": "packaged",
        "text_digest": "e3b0c44298fc1c14",
    }
    assert options.model_label == "SmolLM2-135M-Instruct"


@pytest.mark.parametrize("model", ["smollm2", "hub:", "path:", "packaged:x", "file:x"])
def test_a_model_that_is_not_named_as_it_should_be(model: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=f"--model '{model}' is not packaged, hub:ID or path:FOLDER"):
        parse_options(model, 1, tmp_path, [])


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"has no config\.json"):
        parse_options(f"path:{tmp_path}", 1, tmp_path, [])
    with pytest.raises(CommandError, match=r"--text .*none\.txt: there is no such file"):
        parse_options("packaged", 1, tmp_path, [tmp_path / "none.txt"])


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("template", "has_conversations"),
    [("{{'<|im_start|>' + role}}", True), ("<|start_header_id|>{{role}}", False), (None, False)],
)
def test_conversations_are_read_by_models_of_their_form(
    template: str | None, has_conversations: bool, file: str, tmp_path: Path
) -> None:
    folder = tmp_path / "it's mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if template is not None:
        (folder / file).write_text(json.dumps({"chat_template": template}))
    context = Context(parse_options(f"path:{folder}", 1, tmp_path / "out", []))
    context.source_file.parent.mkdir(parents=True)
    context.source_file.write_text(json.dumps({"folder": str(folder), "gguf": None}))
    (sources,) = [entry for entry in steps._common_overrides(context) if entry.startswith("data.sources=")]
    assert ("{kind:packaged,name:chat}" in sources) == has_conversations
    assert "name:text" in sources


@pytest.mark.parametrize("has_findings", [True, False])
def test_a_failed_proof_goes_into_the_report(
    has_findings: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(parse_options("packaged", 1, tmp_path, []))
    context.proof.parent.mkdir(parents=True)
    context.proof.write_text("{}")  # of an earlier run: must not be taken for this one's

    def fail(child: Child) -> None:
        if has_findings:
            proof = {"passed": False, "judged": {"mean_abs_delta": 1.0}, "runtime": "llama.cpp"}
            context.proof.write_text(json.dumps(proof))
        raise CommandError("exit code 1")

    monkeypatch.setattr(steps, "run_child", fail)
    line = Display(1, Console(file=io.StringIO())).step("Prove")
    with line as shown:
        if has_findings:
            assert steps.prove_export(context, shown)["passed"] is False
        else:
            with pytest.raises(CommandError, match="exit code 1"):
                steps.prove_export(context, shown)


def test_speed_of_the_engines_is_read_from_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp may refuse a file that the native engine runs: it is left out."""
    context = Context(parse_options("packaged", 1, tmp_path, []))
    context.gguf.parent.mkdir(parents=True)
    tests = {"pp128": {"tokens_per_s": 900.0}, "tg64": {"tokens_per_s": 250.0}}
    native = {"error": None, "tests": tests, "kernels": {"isa": "avx2"}}
    found = {"native": native, "llamacpp": {"error": "unknown type", "tests": {}}}

    def bench(child: Child) -> None:
        command = list(child.command)
        assert command[command.index("bench") + 2] == str(context.gguf)
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"engines": found}))

    monkeypatch.setattr(engines, "run_child", bench)
    with Display(1, Console(file=io.StringIO())).step("Speed") as line:
        assert engines.compare_engines(context, line) == {
            "native": {"prompt_tokens_per_s": 900.0, "generation_tokens_per_s": 250.0},
            "kernels": "avx2",
        }


def test_quoting_for_hydra() -> None:
    assert _quoted("/a b/it's,{x}") == r"'/a b/it\'s,{x}'"


# ---- text


def test_held_out_topics_and_their_quotes_are_not_trained_on() -> None:
    corpus = python_reference()
    assert sum(map(len, corpus.train)) > 300_000
    assert sum(map(len, corpus.held_out)) > 40_000
    train = " ".join(" ".join(corpus.train).split())
    for paragraph in (part for text in corpus.held_out for part in text.split("\n\n")):
        flat = " ".join(paragraph.split())
        if len(flat) >= 200:  # a shorter one may stand inside another paragraph
            assert flat not in train


def test_the_last_tenth_of_a_users_text_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    paragraphs = [f"Paragraph {number} " + f"word{number} " * 30 for number in range(400)]
    path.write_text("\n\n".join(paragraphs))
    corpus = user_texts([path])
    train = "\n\n".join(corpus.train)
    assert 0.09 < len(corpus.held_out[0]) / (len(corpus.held_out[0]) + len(train)) < 0.11
    assert sorted(train.split("\n\n")) == sorted(paragraphs[: train.count("\n\n") + 1])
    assert "Paragraph 399 " in corpus.held_out[0]


def test_training_text_is_shuffled_in_pieces(tmp_path: Path) -> None:
    corpus = python_reference()
    assert sum(map(len, corpus.train)) / len(corpus.train) < 2000
    assert corpus.train == python_reference().train
    words = [piece.split()[0] for piece in corpus.train]
    assert words != sorted(words)


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("One.\n\nTwo.")
    with pytest.raises(CommandError, match="the training part has 4 characters, at least 40,000"):
        user_texts([path])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CommandError, match="is not UTF-8"):
        user_texts([path])


# ---- state


def test_state_remembers_steps(tmp_path: Path) -> None:
    output = tmp_path / "made.txt"
    state = State(tmp_path, {"steps": 1})
    state.record("first", (), {"a": 1})
    state.record("second", ("first",), {})
    again = State(tmp_path, {"steps": 1})
    assert not again.is_done("second", ("first",), [output])
    output.write_text("x")
    assert again.is_done("second", ("first",), [output])
    assert again.figures("first") == {"a": 1}


def test_what_needs_a_repeated_step_is_stale(tmp_path: Path) -> None:
    state = State(tmp_path, {})
    state.record("first", (), {})
    state.record("second", ("first",), {})
    time.sleep(0.01)
    state.record("first", (), {})
    assert not state.is_done("second", ("first",), [])
    assert state.is_stale("second", ("first",))


def test_other_options_are_refused(tmp_path: Path) -> None:
    State(tmp_path, {"steps": 1, "model": "packaged"})
    with pytest.raises(CommandError, match=r"steps: 1 there, 2 now\nChoose another --output"):
        State(tmp_path, {"steps": 2, "model": "packaged"})


def test_force_removes_only_what_is_ours(tmp_path: Path) -> None:
    State(tmp_path, {"steps": 1}).record("first", (), {})
    (tmp_path / "export").mkdir()
    (tmp_path / "mine.txt").write_text("keep")
    state = State(tmp_path, {"steps": 2}, force=True)
    assert not state.is_done("first", (), [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "quickstart.json"]


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    for force in (False, True):
        with pytest.raises(CommandError, match=r"is not empty \(thesis.txt\) and holds no quickstart"):
            State(tmp_path, {}, force)


def test_one_quickstart_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(CommandError, match="another quickstart is working"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


# ---- children


def _python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def test_a_failed_child_names_step_log_and_last_lines(tmp_path: Path) -> None:
    child = Child("convert", _python("print('out of luck'); raise SystemExit(3)"), tmp_path / "c.log")
    with pytest.raises(
        CommandError, match=r"step 'convert' failed with exit code 3(.|\n)*out of luck"
    ) as caught:
        run_child(child)
    assert str(tmp_path / "c.log") in str(caught.value)


def test_an_interrupt_stops_the_child_in_its_own_time(tmp_path: Path) -> None:
    source = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    child = Child("train", _python(source), tmp_path / "c.log")

    def interrupt() -> None:
        if "ready" in child.log.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child(child, on_poll=interrupt)
    assert "saved" in child.log.read_text()


def test_a_deaf_child_is_killed(tmp_path: Path) -> None:
    source = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    child = Child("deaf", _python(source), tmp_path / "c.log")
    with started(child) as process:
        while "ready" not in child.log.read_text():
            time.sleep(0.02)
        stop(process, timeout_s=0.3)
        assert process.returncode == -signal.SIGKILL


# ---- sizes of a GGUF file


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _gguf(tensors: list[tuple[str, list[int], int]], data: bytes) -> bytes:
    pairs = [
        _string("general.alignment") + struct.pack("<II", 4, 64),
        _string("tokens") + struct.pack("<IIQ", 9, 8, 2) + _string("a") + _string("b"),
    ]
    table = [
        _string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, offset)
        for name, dims, offset in tensors
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs + table)
    return header + bytes(-len(header) % 64) + data


def test_gguf_sizes_by_offsets(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(_gguf([("token_embd.weight", [4, 8], 0), ("blk.0.x", [16], 128)], bytes(192)))
    sizes = gguf_sizes(path)
    assert sizes.total == path.stat().st_size
    assert (sizes.embeddings, sizes.num_weights, sizes.num_embedding_weights) == (128, 48, 32)


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(CommandError, match="is no GGUF file"):
        gguf_sizes(path)


# ---- speed and answers, with a server made here


class _Handler(BaseHTTPRequestHandler):
    requests: list[tuple[str, dict[str, Any], str | None]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).requests.append((self.path, body, self.headers["Authorization"]))
        timings = {
            "prompt_n": 9,
            "predicted_n": 64,
            "prompt_per_second": 20.0 * len(self.requests),
            "predicted_per_second": 7.0,
        }
        answer = {"timings": timings, "choices": [{"message": {"content": " Paris. "}}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[llamacpp.Server]:
    _Handler.requests = []
    http = HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield llamacpp.Server(f"http://127.0.0.1:{http.server_port}", "key")
    http.shutdown()
    thread.join()
    http.server_close()


def test_speed_is_the_median_and_answers_are_greedy(server: llamacpp.Server) -> None:
    shown: list[tuple[int, int]] = []
    found = llamacpp.try_model(server, "text " * 1000, lambda done, total: shown.append((done, total)))
    assert found["prompt_tokens_per_s"] == 40.0
    assert found["generation_tokens_per_s"] == 7.0
    assert [row["answer"] for row in found["answers"]] == ["Paris."] * 3
    assert shown[-1] == (6, 6)
    path, body, key = _Handler.requests[0]
    assert (path, key) == ("/v1/completions", "Bearer key")
    assert body["cache_prompt"] is False
    assert body["ignore_eos"] is True
    assert _Handler.requests[-1][1]["temperature"] == 0


def test_a_server_that_does_not_start_shows_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = _python("import sys; sys.stderr.write('error: no such model'); sys.exit(1)")
    monkeypatch.setattr(llamacpp, "module_command", lambda _: command)
    with (
        pytest.raises(CommandError, match=r"step 'speed' failed(.|\n)*no such model"),
        llamacpp.serving("speed", tmp_path / "m.gguf", tmp_path / "s.log"),
    ):
        pass
