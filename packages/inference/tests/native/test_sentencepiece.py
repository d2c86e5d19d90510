"""SentencePiece's tokenizers against transformers' and llama.cpp's, on text of many kinds and as a stream."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from gguf_files import finish
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_arch.tokenizers import load_tokenizer as load_for_training
from wf_formats.tokenizer import gguf_tokenizer
from wrinklefree_inference.llamacpp.scorer import GgufScorer
from wrinklefree_inference.native.tokenizer import StreamDecoder, load_tokenizer

KINDS = ("llama2", "mistral", "gemma")
ADDED = {"<|user|>": {}, "<tool>": {"special": False}}
PIECES = [
    "The quick brown fox didn't jump; we'll see.",
    "def f(x: int) -> str:\n\treturn f'{x!r}'  # 100 %\n\n\n",
    "12345678901234567890 3.14159 ０１２３ ²³",
    "naïve café e\u0301 — Привет, мир! 你好，世界 こんにちは 한국어 עברית العربية",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f600\u200d ﬁ Å Å \u2581 \u2581\u2581",
    "\x00\x01\x7f \ufffd\u00a0nbsp\u3000wide",
    "tabs\t\t\r\n      six   three  two ",
]
SPECIAL = ["<|user|>\nhi</s>\n<|user|> again</s>", "a <tool>b<tool> c  <s>d", "</s></s>  <unk>x"]
SPACED = ["", " ", "  ", " a", "\n a"]


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    """The pieces above and a page of every data set, without special tokens (WikiText has <unk>)."""
    found = list(PIECES)
    for path in sorted(shared_data.rglob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found += [line[:2000].replace("<unk>", "_") for line, _ in zip(file, range(2), strict=False)]
    return found


def write_model(keys, path: Path, num_tokens: int = 1000) -> Path:
    """A Llama of one layer of zeros with a tokenizer."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for add in ("context_length", "embedding_length", "feed_forward_length", "rope_dimension_count"):
        getattr(writer, f"add_{add}")(32)
    for add in ("block_count", "head_count"):
        getattr(writer, f"add_{add}")(1)
    writer.add_layer_norm_rms_eps(1e-5)
    keys.write(writer)
    matrices = [f"attn_{part}" for part in ("q", "k", "v", "output")] + ["ffn_gate", "ffn_up", "ffn_down"]
    shapes = {"token_embd": (num_tokens, 32), "output_norm": (32,), "blk.0.attn_norm": (32,)}
    shapes |= {"blk.0.ffn_norm": (32,)} | {f"blk.0.{name}": (32, 32) for name in matrices}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    finish(writer)
    return path


@pytest.fixture(scope="module", params=KINDS)
def folder(request, sentencepiece_folder, tmp_path_factory) -> Path:
    return sentencepiece_folder(tmp_path_factory.mktemp(request.param), request.param, ADDED, 998)


@pytest.fixture(scope="module")
def gguf_path(folder: Path) -> Path:
    return write_model(gguf_tokenizer(folder, 1000), folder / "model.gguf")


@pytest.fixture(scope="module", params=["folder", "gguf"])
def ours(request, folder: Path, gguf_path: Path):
    return load_tokenizer(folder if request.param == "folder" else gguf_path)


def test_ids_equal_transformers(ours, folder, texts):
    theirs = load_for_training(folder)
    for text in texts + SPECIAL + SPACED:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids, text
        assert ours.encode(text, add_special=False) == ids[1:]


def test_text_comes_back(ours, folder, texts):
    theirs = load_for_training(folder).backend_tokenizer
    for text in texts:
        ids = ours.encode(text)
        assert ours.decode(ids) == text.replace("\u2581", " ")
        assert ours.decode(ids[1:], skip_special=False) == theirs.decode(ids[1:], skip_special_tokens=False)


def test_ids_equal_llamacpp(folder, gguf_path, texts):
    """Also special tokens and leading spaces, but for the kind whose space llama.cpp puts elsewhere."""
    compared = texts if folder.name.startswith("mistral") else texts + SPECIAL + SPACED
    ours = load_tokenizer(gguf_path)
    with GgufScorer(gguf_path, 32) as theirs:
        assert theirs.adds_bos
        for text in compared:
            ids = theirs.tokenize(text, parse_special=True)
            assert ours.encode(text, add_special=False) == ids, text


def test_an_answer_goes_on_after_its_prompt(ours):
    """Prompt and answer together are what the model wrote, the space between them included."""
    ids = ours.encode("The quick brown fox é🙂", add_special=False)
    for cut in range(1, len(ids)):
        stream = StreamDecoder(ours)
        answer = "".join([*map(stream.push, ids[cut:]), stream.flush()])
        assert "\ufffd" in answer or ours.decode(ids[:cut]) + answer == "The quick brown fox é🙂"
    assert StreamDecoder(ours).push(ours.encode("x the", add_special=False)[-1]).startswith(" ")


def test_a_stream_holds_back_characters_spelled_in_bytes(ours):
    ids = ours.encode("a😀b", add_special=False)
    stream, shown = StreamDecoder(ours), []
    for index in ids:
        shown.append(stream.push(index))
        assert "\ufffd" not in shown[-1]
    assert "".join(shown).lstrip() == "a😀b"
    first_byte = next(index for index in ids if ours.token_bytes(index) == b"\xf0")
    assert (stream.push(first_byte), stream.flush()) == ("", "\ufffd")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_stream_is_the_whole(ours, data):
    ids = data.draw(st.lists(st.integers(0, ours.num_tokens - 1), max_size=30))
    for skip in (True, False):
        stream = StreamDecoder(ours, skip)
        assert "".join([*map(stream.push, ids), stream.flush()]) == ours.decode(ids, skip, continues=True)


def test_the_class_does_not_change_what_the_file_says(folder):
    """transformers' LlamaTokenizer builds its own splitting, whatever tokenizer.json says."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    plain = load_for_training(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "LlamaTokenizer"}))
    try:
        named = load_for_training(folder)
    finally:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for text in PIECES + SPECIAL + SPACED:
        assert named(text)["input_ids"] == plain(text)["input_ids"], text
