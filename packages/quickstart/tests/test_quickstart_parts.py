"""The quickstart's parts without the other applications: options, text, state, children, sizes, server."""

from __future__ import annotations

import gzip
import io
import json
import signal
import struct
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from wf_formats.diffusion import ModelKindError
from wf_formats.errors import RequestError
from wf_formats.packaged import ModelSource
from wf_quickstart import answers, fetch_model, speed, steps
from wf_quickstart.children import Child, run_child, started, stop
from wf_quickstart.context import Context
from wf_quickstart.display import Display
from wf_quickstart.errors import QuickstartError
from wf_quickstart.gguf_sizes import gguf_sizes
from wf_quickstart.options import _parse_model, parse_options
from wf_quickstart.state import State, locked
from wf_quickstart.text import python_reference, user_texts
from wf_quickstart.training import common_overrides, quoted

# ---- options


def test_options_of_the_packaged_model(tmp_path: Path) -> None:
    options = parse_options("packaged", 10, tmp_path, [])
    assert options.identity() == {
        "model": "packaged",
        "minutes": None,
        "steps": 10,
        "text": "packaged",
        "text_digest": "e3b0c44298fc1c14",
    }
    assert options.model_label == "SmolLM2-135M-Instruct"


@pytest.mark.parametrize("model", ["smollm2", "hub:", "path:", "packaged:x", "file:x"])
def test_a_model_that_is_not_named_as_it_should_be(model: str, tmp_path: Path) -> None:
    with pytest.raises(QuickstartError, match=f"--model '{model}' is not packaged, hub:ID or path:FOLDER"):
        parse_options(model, 1, tmp_path, [])


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(QuickstartError, match=r"has no config\.json"):
        parse_options(f"path:{tmp_path}", 1, tmp_path, [])
    with pytest.raises(QuickstartError, match=r"--text .*none\.txt: there is no such file"):
        parse_options("packaged", 1, tmp_path, [tmp_path / "none.txt"])
    with pytest.raises(QuickstartError, match="at most 525600"):
        parse_options("packaged", None, tmp_path, [], minutes=1e308)


@pytest.mark.parametrize("output", ["/", "s3://bucket/x", "gs:bucket"])
def test_an_output_that_is_no_folder_here_is_refused(output: str) -> None:
    with pytest.raises(RequestError, match="give a path"):
        parse_options("packaged", 1, Path(output), [])


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
    (sources,) = [entry for entry in common_overrides(context) if entry.startswith("data.sources=")]
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
        raise QuickstartError("exit code 1")

    monkeypatch.setattr(steps, "run_child", fail)
    line = Display(1, Console(file=io.StringIO())).step("Prove")
    with line as shown:
        if has_findings:
            assert steps.prove_export(context, shown)["passed"] is False
        else:
            with pytest.raises(QuickstartError, match="exit code 1"):
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
        assert command[command.index("--model") + 1] == str(context.gguf)
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"engines": found}))

    monkeypatch.setattr(speed, "run_child", bench)
    with Display(1, Console(file=io.StringIO())).step("Speed") as line:
        assert speed.compare_engines(context, line) == {
            "native": {"prompt_tokens_per_s": 900.0, "generation_tokens_per_s": 250.0},
            "kernels": "avx2",
        }


def test_quoting_for_hydra() -> None:
    assert quoted("/a b/it's,{x}") == r"'/a b/it\'s,{x}'"


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
    with pytest.raises(QuickstartError, match="the training part has 4 characters, at least 40,000"):
        user_texts([path])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(QuickstartError, match="not UTF-8"):
        user_texts([path])


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz", "mine.parquet"])
def test_records_are_texts_too(name: str, tmp_path: Path) -> None:
    """Split as a .txt of the same paragraphs is."""
    texts = [f"Paragraph {number} " + f"word{number} " * 30 for number in range(400)]
    (tmp_path / "mine.txt").write_text("\n\n".join(texts))
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": texts}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert user_texts([tmp_path / name]) == user_texts([tmp_path / "mine.txt"])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{', r"--text: .*a\.jsonl, line 2: damaged record"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}', "apply_chat_template"),
        ("a.jsonl.gz", b"plain", "damaged gzip data"),
        ("a.parquet", b"plain", "damaged parquet data"),
        ("a.txt", b"h\0i\0", "a byte of value 0"),
    ],
)
def test_texts_that_cannot_be_read_are_named(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(QuickstartError, match=message):
        user_texts([tmp_path / name])


def test_a_text_of_no_known_kind_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(QuickstartError, match=r"a\.docx: a text is one of \.jsonl, .*\.txt"):
        parse_options("packaged", 1, tmp_path, [tmp_path / "a.docx"])


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
    with pytest.raises(QuickstartError, match=r"steps: 1 there, 2 now\nChoose another --output"):
        State(tmp_path, {"steps": 2, "model": "packaged"})


def test_force_removes_only_what_is_ours(tmp_path: Path) -> None:
    State(tmp_path, {"steps": 1}).record("first", (), {})
    (tmp_path / "export").mkdir()
    (tmp_path / "mine.txt").write_text("keep")
    state = State(tmp_path, {"steps": 2}, force=True)
    assert not state.is_done("first", (), [])
    (aside,) = tmp_path.glob("replaced-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "quickstart.json", aside.name]


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    for force in (False, True):
        with pytest.raises(QuickstartError, match=r"is not empty \(thesis.txt\) and holds no quickstart"):
            State(tmp_path, {}, force)


def test_a_block_diffusion_model_is_refused(diffusion_files_of: dict[str, Path], tmp_path: Path) -> None:
    folder = diffusion_files_of["folder"]
    with pytest.raises(ModelKindError, match=f"--model path:{folder} is a block-diffusion model"):
        _parse_model(f"path:{folder}", tmp_path / "out")


def test_one_quickstart_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(QuickstartError, match="another quickstart is working"),
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
        QuickstartError, match=r"step 'convert' failed with exit code 3(.|\n)*out of luck"
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
    with pytest.raises(QuickstartError, match=r"m\.gguf: .*GGUF file: it begins with"):
        gguf_sizes(path)


# ---- speed and answers in llama.cpp, by the inference application


def test_speed_and_answers_are_those_of_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy, in llama.cpp; what `chat` prints to standard output is the answer."""
    context = Context(parse_options("packaged", 1, tmp_path, []))
    path = tmp_path / "m.gguf"
    path.write_bytes(_gguf([("token_embd.weight", [4, 8], 0), ("blk.0.x", [16], 128)], bytes(192)))
    asked: list[list[str]] = []

    def application(child: Child) -> None:
        command = list(child.command)
        assert command[1:3] == ["-m", "wrinklefree_inference"]
        assert command[command.index("--engine") + 1] == "llamacpp"
        assert command[command.index("--model") + 1] == str(path)
        if command[3] == "bench":
            tests = {"pp128": {"tokens_per_s": 40.0}, "tg64": {"tokens_per_s": 7.0}}
            found = {"engines": {"llamacpp": {"error": None, "tests": tests}}}
            Path(command[command.index("--json") + 1]).write_text(json.dumps(found))
        else:
            asked.append(command[4:])
            assert child.output is not None
            child.output.write_text(" Paris. \n")

    monkeypatch.setattr(speed, "run_child", application)
    monkeypatch.setattr(answers, "run_child", application)
    with Display(1, Console(file=io.StringIO())).step("Speed") as line:
        found = steps.llamacpp_step("original", lambda _: path)(context, line)
    assert found["prompt_tokens_per_s"] == 40.0
    assert found["generation_tokens_per_s"] == 7.0
    assert (found["file"], found["sizes"]["num_weights"]) == ("m.gguf", 48)
    assert found["answers"] == [{"prompt": prompt, "answer": "Paris."} for prompt in answers.PROMPTS]
    for prompt, command in zip(answers.PROMPTS, asked, strict=True):
        assert command[command.index("--prompt") + 1] == prompt
        assert command[command.index("--temperature") + 1] == "0"
        assert command[command.index("--max-tokens") + 1] == str(answers.ANSWER_TOKENS)


def test_a_model_that_llama_cpp_refuses_is_named(tmp_path: Path) -> None:
    """The real application; its reason stands in the log and in the message."""
    context = Context(parse_options("packaged", 1, tmp_path, []))
    path = tmp_path / "m.gguf"
    with pytest.raises(QuickstartError, match=r"step 'answer 1 of the x' failed(.|\n)*m\.gguf"):
        answers.answer(context, "x", path, 0)


def test_a_childs_output_is_kept_apart_from_its_log(tmp_path: Path) -> None:
    source = "import os, sys; print('said'); sys.stderr.write(os.environ.get('WF_PROG', 'no name'))"
    child = Child("say", _python(source), tmp_path / "logs" / "c.log", tmp_path / "new" / "c.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WF_PROG", "wf quickstart")
        run_child(child)
    assert (tmp_path / "new" / "c.txt").read_text() == "said\n"
    assert child.log.read_text() == "no name"


# ---- the original model


def test_the_packaged_model_is_fetched_in_a_process_of_its_own(
    packaged_model_dir: Path, packaged_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(parse_options("packaged", 1, tmp_path, []))

    def run_here(child: Child) -> None:
        assert list(child.command[1:3]) == ["-m", "wf_quickstart.fetch_model"]
        fetch_model.main(list(child.command[3:]))

    monkeypatch.setattr(steps, "run_child", run_here)
    with Display(1, Console(file=io.StringIO())).step("Model") as line:
        steps.find_model(context, line)
    assert context.teacher == packaged_model_dir
    assert context.original_gguf == packaged_gguf


def test_a_source_that_needs_no_fetching_is_refused() -> None:
    with pytest.raises(ValueError, match="source path with name 'x' is not packaged"):
        fetch_model.fetch(ModelSource.path, "x")
