"""The native tokenizer against transformers' (same ids, same text, same chat), and damaged files."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import shutil
import struct
import threading
import time
from pathlib import Path

import pytest
from gguf_files import finish
from hypothesis import given, settings
from hypothesis import strategies as st

from wf_formats.tokenizer import TokenizerSource
from wf_formats.tokenizer.rules import rule_named
from wrinklefree_inference.native.request import RequestTooLong
from wrinklefree_inference.native.tokenizer import StreamDecoder, TokenizerError, load_tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PIECES = [
    "The quick brown fox didn't jump; we'll see.",
    "def f(x: int) -> str:\n\treturn f'{x!r}'  # 100 %\n\n\n",
    "12345678901234567890 3.14159 1,000,000 ０１２３ ²³",
    "naïve café e\u0301 — Привет, мир! 你好，世界 こんにちは 한국어 עברית العربية",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f600\u200d ﬁ Å Å",
    "  leading\t\ttabs \r\n windows \u00a0nbsp\u3000wide ",
    "<|im_start|>user\nHi<|im_end|>\n<|not_special|> <repo_name>",
    "\x00\x01\x7f \ufffd",
    "",
    " ",
    "'S 'RE 'Ll I'VE",
]
CHATS = [
    [{"role": "user", "content": "What is 2 + 2?"}],
    [{"role": "system", "content": "Be brief. ü <|im_end|>"}, {"role": "user", "content": " Hi\n"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "{{ 7 * 7 }}"},
    ],
]


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    """The pieces above and a few pages of every data set."""
    found = list(PIECES)
    for path in sorted(shared_data.rglob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found += [line[:2000] for line, _ in zip(file, range(4), strict=False)]
    rng = random.Random(0)
    alphabet = "".join(PIECES) + "".join(chr(rng.randrange(1, 0xD7FF)) for _ in range(200))
    found += ["".join(rng.choices(alphabet, k=80)) for _ in range(200)]
    return found


@pytest.fixture(scope="module")
def theirs(packaged_model_dir):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(packaged_model_dir)


@pytest.fixture(scope="module", params=["folder", "gguf"])
def ours(request, packaged_model_dir, packaged_gguf):
    return load_tokenizer(packaged_model_dir if request.param == "folder" else packaged_gguf)


def test_ids_and_text_equal_transformers(ours, theirs, texts):
    assert len(texts) > 250
    for text in texts:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.encode(text, add_special=False) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_chat_equals_transformers(ours, theirs):
    for chat in CHATS:
        for prompt in (True, False):
            expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            assert ours.render_chat(chat, prompt) == expected
            ids = theirs.apply_chat_template(chat, add_generation_prompt=prompt, return_dict=False)
            assert ours.apply_chat_template(chat, prompt) == ids


def test_special_tokens(ours, theirs):
    assert ours.special_ids >= {0, 1, 2}
    assert ours.eos_ids == {0, 2}
    assert ours.special_tokens["eos_token"] == theirs.eos_token == "<|im_end|>"
    assert ours.decode([1, *ours.encode("user"), 2]) == "user"


def test_token_bytes_make_up_the_text(ours):
    text = "".join(PIECES)
    assert b"".join(ours.token_bytes(index) for index in ours.encode(text)) == text.encode()
    assert ours.token_bytes(ours.num_tokens + 5) == b""


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_stream_is_the_whole(ours, data):
    ids = data.draw(st.lists(st.integers(0, ours.num_tokens - 1), max_size=30))
    for skip in (True, False):
        stream = StreamDecoder(ours, skip)
        assert "".join([*map(stream.push, ids), stream.flush()]) == ours.decode(ids, skip, continues=True)


def test_a_stream_holds_back_incomplete_characters(ours):
    ids = ours.encode("a😀b")
    stream, shown = StreamDecoder(ours), []
    for index in ids:
        shown.append(stream.push(index))
        assert "\ufffd" not in shown[-1]
    assert "".join(shown) == "a😀b"
    assert stream.flush() == ""
    first_bytes = next(index for index in ids if ours.token_bytes(index)[:1] == b"\xf0")
    assert stream.push(first_bytes) == ""
    assert stream.flush() == "\ufffd"
    assert stream.push(ours.encode("x")[0]) == "x"


def trained(kind: str, folder: Path, add_bos: bool = False):
    """A byte-level BPE tokenizer of 600 tokens as a Hugging Face folder."""
    import pydoc_data.topics as topics

    import transformers
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
    from tokenizers.pre_tokenizers import ByteLevel

    model = models.BPE(ignore_merges=kind in ("llama-bpe", "tekken"))
    backend = Tokenizer(model)
    if kind == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer, backend.decoder = rule_named(kind).pre_tokenizer(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([*topics.topics.values()][:10], trainer)
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    if add_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
        chat_template="{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    fast.save_pretrained(folder)
    return fast


def gguf_file(folder: Path, path: Path, rule: str, **changes) -> Path:
    """A GGUF file with the tokenizer of a folder and no tensors."""
    import gguf

    spec = json.loads((folder / "tokenizer.json").read_text())
    added = {item["id"]: item for item in spec["added_tokens"]}
    ids = {index: token for token, index in spec["model"]["vocab"].items()}
    ids |= {index: item["content"] for index, item in added.items()}
    tokens = [ids.get(index, f"[PAD{index}]") for index in range(max(ids) + 4)]
    types = [1 if index in ids else 5 for index in range(len(tokens))]
    for index, item in added.items():
        types[index] = 3 if item["special"] else 4
    values = {
        "model": "gpt2",
        "pre": rule,
        "tokens": tokens,
        "token_type": types,
        "merges": [" ".join(pair) for pair in spec["model"]["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_bos_token": False,
    } | changes
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in values.items():
        key = f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    finish(writer)
    return path


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "dbrx", "gpt-4o"])
@pytest.mark.parametrize("add_bos", [False, True])
def test_every_splitting_rule_in_both_formats(kind, add_bos, tmp_path, texts):
    theirs = trained(kind, tmp_path, add_bos)
    path = gguf_file(tmp_path, tmp_path / "t.gguf", kind, add_bos_token=add_bos)
    for ours in (load_tokenizer(tmp_path), load_tokenizer(path)):
        for text in [*texts[:40], *texts[-40:], "x<tool>y [PAD601] 12345678"]:
            ids = theirs.encode(text)
            assert ours.encode(text) == ids
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.encode("a")[0] == (1 if add_bos else theirs.encode("a")[0])


def test_end_ids_come_from_all_files(tmp_path):
    trained("smollm", tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert load_tokenizer(tmp_path).eos_ids == {0, 2, 5, 7}
    path = gguf_file(tmp_path, tmp_path / "t.gguf", "smollm", eot_token_id=9)
    assert load_tokenizer(path).eos_ids == {0, 2, 9}


BROKEN_KEYS = {
    "model": ("t5", "model is 't5'; supported are 'gpt2'"),
    "pre": ("chatglm-bpe", "'chatglm-bpe'; known splitting rules"),
    "tokens": (None, "tokens is missing"),
    "token_type": ([1, 2], "has 2 entries"),
    "merges": (["a b c"], "not two tokens"),
    "bos_token_id": (10**6, "bos_token_id is 1000000"),
}


@pytest.mark.parametrize("key", BROKEN_KEYS)
def test_broken_gguf_keys_are_named(key, tmp_path):
    value, message = BROKEN_KEYS[key]
    trained("smollm", tmp_path)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(gguf_file(tmp_path, tmp_path / "t.gguf", "smollm", **{key: value}))


def test_merges_beyond_the_vocabulary_are_refused(tmp_path):
    trained("smollm", tmp_path)
    with pytest.raises(TokenizerError, match="which the vocabulary has not"):
        load_tokenizer(gguf_file(tmp_path, tmp_path / "t.gguf", "smollm", merges=["zzzz qqqq"]))


def test_a_damaged_folder_is_named(tmp_path, packaged_model_dir):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 5}')
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is damaged"):
        load_tokenizer(tmp_path)
    shutil.copyfile(packaged_model_dir / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text("[1")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is damaged"):
        load_tokenizer(tmp_path)


def test_other_kinds_of_tokenizers_are_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="only byte-level"):
        load_tokenizer(tmp_path)


@pytest.fixture
def with_template(tmp_path):
    trained("smollm", tmp_path)

    def make(template):
        (tmp_path / "chat_template.jinja").write_text(template)
        return load_tokenizer(tmp_path)

    return make


TEMPLATES = [
    "{%- for m in messages %}\n  {%- if loop.index0 == 1 %}{% break %}{% endif %}\n{{ m | tojson }}"
    "{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{{ bos_token }}{{ messages[0]['content'] | tojson(indent=2) }}{{ eos_token }}{{ tools is none }}",
    "{% for m in messages %}\n{% generation %}\n{{ m['role'] }}\n{% endgeneration %}\n{% endfor %}\n",
    "{{ strftime_now('%Y')[:2] }}{% if add_generation_prompt %}go{% endif %}{{ messages[5] is defined }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_render_as_in_transformers(template, with_template, tmp_path):
    import transformers

    ours = with_template(template)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "<ü> & 'x'"}, {"role": "assistant", "content": "b"}]
    for prompt in (True, False):
        expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
        assert ours.render_chat(chat, prompt) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ messages.append(1) }}", "refuses these messages"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set n = namespace(__class__=1) %}", "__class__"),
        ("{% set n = namespace() %}{% set n._x = 1 %}", "_x"),
        ("{{ messages[0].content / 0 }}", "refuses these messages"),
    ],
)
def test_a_template_cannot_do_everything(template, message, with_template):
    with pytest.raises(ValueError, match=message):
        with_template(template).render_chat([{"role": "user", "content": "x"}])


def test_broken_and_missing_templates(with_template, tmp_path):
    with pytest.raises(ValueError, match="damaged"):
        with_template("{% if %}")
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="no chat template"):
        ours.apply_chat_template(CHATS[0])


def test_messages_that_are_no_json_are_refused(with_template):
    with pytest.raises(ValueError, match="refuses these messages"):
        with_template("{{ messages }}").render_chat([{"role": "user", "content": object()}])


def test_a_source_without_names_is_enough(packaged_model_dir):
    from tokenizers import Tokenizer as Backend

    from wrinklefree_inference.native.tokenizer import Tokenizer

    bare = Tokenizer(TokenizerSource(Backend.from_file(str(packaged_model_dir / "tokenizer.json"))))
    assert bare.eos_ids == {0, 2}


def test_a_truncated_gguf_is_refused(packaged_gguf, tmp_path):
    data = packaged_gguf.read_bytes()[: 1 << 16]
    (tmp_path / "t.gguf").write_bytes(data + struct.pack("<Q", 1 << 60))
    with pytest.raises(ValueError, match=r"ends inside|too many"):
        load_tokenizer(tmp_path / "t.gguf")


@pytest.mark.parametrize(
    "text", ["1234567890" * 20_000, "a" * 200_000, "1 a\n" * 50_000], ids=["1", "a", "1a"]
)
def test_others_run_while_a_long_text_is_cut_up(text, packaged_gguf):
    """The interpreter's lock is not held: a thread that wakes every millisecond goes on doing so."""
    ours = load_tokenizer(packaged_gguf)
    ticks, is_over = [], threading.Event()

    def tick():
        while not is_over.wait(0.001):
            ticks.append(time.monotonic())

    ticker = threading.Thread(target=tick)
    ticker.start()
    start_s = time.monotonic()
    ids = ours.encode(text)
    end_s = time.monotonic()
    is_over.set()
    ticker.join()
    assert ours.decode(ids) == text
    inside = [start_s, *(tick for tick in ticks if start_s < tick < end_s), end_s]
    assert max(b - a for a, b in itertools.pairwise(inside)) < 0.05 + 0.3 * (end_s - start_s)


@pytest.mark.parametrize("text", ["7" * 4_000_000, "word " * 800_000, "\x00" * 1_000_000, "😀" * 500_000])
def test_a_text_far_too_long_is_refused_for_the_price_of_a_short_one(text, packaged_gguf, monkeypatch):
    ours = load_tokenizer(packaged_gguf)
    cut, lengths = ours._cut, []

    def counting(part, add_special=False):
        lengths.append(len(part))
        return cut(part, add_special)

    monkeypatch.setattr(ours, "_cut", counting)
    with pytest.raises(RequestTooLong, match=rf"of {len(text)} characters are \d+ tokens already"):
        ours.encode(text, max_tokens=100)
    assert sum(lengths) <= 10_000


def test_a_text_that_fits_is_never_refused(packaged_gguf):
    """Few tokens of many characters, and lengths around every bound."""
    ours = load_tokenizer(packaged_gguf)
    for text in (" " * 5000, "internationalization " * 100, "x" * 800, "x" * 801):
        ids = ours.encode(text)
        assert ours.encode(text, max_tokens=len(ids)) == ids
        if len(ids) > 40:
            assert ours.encode(text, max_tokens=len(ids) - 1) == ids  # left to the caller
