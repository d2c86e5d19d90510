"""SentencePiece's kind of tokenizers: folder -> GGUF keys -> tokenizer, with the same ids and bytes."""

import json

import pytest
from gguf_files import finish

from wf_formats.tokenizer import Pieces, TokenizerError, gguf_tokenizer, read_tokenizer, token_bytes
from wf_formats.tokenizer.sentencepiece import PREFIX_KEY, Prefix, merges_of, scores_of

KINDS = {"llama2": Prefix.EVERY, "mistral": Prefix.FIRST, "gemma": Prefix.NONE}
TEXTS = [
    "",
    " ",
    "a",
    " a",
    "  two   spaces    and\ttabs \n\n\n",
    "In 2024, don't print(f(007))\r\n",
    "naïve café Привет 你好 日本 🙂 e\u0301 \u2581 \x00\x01",
    "x</s> y</s>z<s>\n<|user|>\nhello</s> <tool>a <tool> b",
]
ADDED = {"<|user|>": {}, "<tool>": {"special": False}}


def written(keys, path):
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    keys.write(writer)
    finish(writer)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_both_directions(sentencepiece_folder, tmp_path, kind):
    folder = sentencepiece_folder(tmp_path / "m", kind, ADDED)
    keys = gguf_tokenizer(folder, 510)
    assert (keys.model, keys.pre, keys.prefix, keys.merges) == ("llama", "default", KINDS[kind], [])
    assert (keys.add_bos, keys.add_eos, keys.special_ids) == (True, False, {"bos": 1, "eos": 2, "unk": 0})
    ours, theirs = read_tokenizer(written(keys, tmp_path / "t.gguf")), read_tokenizer(folder)
    assert ours.pieces is theirs.pieces is Pieces.SENTENCEPIECE
    assert ours.puts_space_first is theirs.puts_space_first is (kind != "gemma")
    for text in TEXTS:
        ids = theirs.backend.encode(text).ids
        assert ours.backend.encode(text).ids == ids, text
        assert ours.backend.decode(ids) == theirs.backend.decode(ids)
    assert ours.special_tokens == theirs.special_tokens
    assert ours.eos_ids == theirs.eos_ids == {2}
    assert token_bytes(ours)[:502] == token_bytes(theirs)


def test_types_and_scores(sentencepiece_folder, tmp_path):
    runs = {"<|user|>": {}, "<tool>": {"special": False}}
    keys = gguf_tokenizer(sentencepiece_folder(tmp_path, "gemma", runs), 510)
    assert keys.token_types[:5] == [2, 3, 3, 6, 6]
    assert keys.token_types[500:] == [3, 4, *[5] * 8]
    made = [
        score for score, kind in zip(keys.scores, keys.token_types, strict=True) if kind == 1 and score > -1e4
    ]
    assert len(set(made)) == len(made) > 100  # each merged token has its own place
    assert all(score == int(score) > -(2**24) for score in made)  # exact in float32


def test_token_bytes_make_up_the_text(sentencepiece_folder, tmp_path):
    source = read_tokenizer(sentencepiece_folder(tmp_path, "llama2"))
    table = token_bytes(source)
    for text in TEXTS[1:7]:
        ids = source.backend.encode(text, add_special_tokens=False).ids
        assert b"".join(table[index] for index in ids) == b" " + text.replace("\u2581", " ").encode()


def test_runs_of_spaces_that_are_added_tokens_are_merged_and_shown_as_spaces(sentencepiece_folder, tmp_path):
    folder = sentencepiece_folder(tmp_path / "m", "gemma")
    spec = json.loads((folder / "tokenizer.json").read_text())
    token = "\u2581" * 4
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    spec["added_tokens"].append({"id": spec["model"]["vocab"][token], "content": token} | flags)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    keys = gguf_tokenizer(folder, 510)
    assert keys.token_types[keys.tokens.index(token)] == 1


def test_merges_come_back_from_scores(sentencepiece_folder, tmp_path):
    folder = sentencepiece_folder(tmp_path)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    pairs = [tuple(merge) for merge in model["merges"]]
    assert merges_of(model["vocab"], scores_of(pairs)) == pairs


def last_ways(model):
    """Of the ways to make a token the last one alone, which mostly is not the one that comes up."""
    return list({"".join(pair): pair for pair in model["merges"]}.values())


REFUSED = {
    "ignore_merges": (lambda s: s["model"].update(ignore_merges=True), "ignore_merges True"),
    "dropout": (lambda s: s["model"].update(dropout=0.1), "model.dropout is 0.1"),
    "bytes": (
        lambda s: s["model"]["vocab"].update({"<zz>": s["model"]["vocab"].pop("<0x0A>")}),
        "lacks 1 bytes, the first is <0x0A>",
    ),
    "normalizer": (lambda s: s.update(normalizer={"type": "NFKC"}), "NFKC.*none of SentencePiece's"),
    "pre_tokenizer": (lambda s: s.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
    "decoder": (lambda s: s.update(decoder={"type": "Fuse"}), "decoder"),
    "strip": (lambda s: s["decoder"]["decoders"].pop(), "not taken away again"),
    "split": (
        lambda s: s.update(
            normalizer=None,
            pre_tokenizer={
                "type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True
            },
        ),
        "Metaspace",
    ),
    "model": (lambda s: s["model"].update(unk_token="<huh>"), "unk_token '<huh>'"),
    "unreachable": (lambda s: s["model"]["merges"].clear(), "it never joins .* llama.cpp does"),
    "ways": (lambda s: s["model"].update(merges=last_ways(s["model"])), "has the tokens .* and would have"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_equal_is_refused(sentencepiece_folder, tmp_path, case):
    change, message = REFUSED[case]
    folder = sentencepiece_folder(tmp_path)
    spec = json.loads((folder / "tokenizer.json").read_text())
    change(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(TokenizerError, match=message):
        gguf_tokenizer(folder, 510)


def test_what_llamacpp_does_otherwise_is_said(sentencepiece_folder, tmp_path, caplog):
    gguf_tokenizer(sentencepiece_folder(tmp_path / "a", "llama2"), 510)
    assert not caplog.messages
    gguf_tokenizer(sentencepiece_folder(tmp_path / "b", "mistral", {"<|end|>": {"rstrip": True}}), 510)
    assert "<|end|> take the spaces around them away" in caplog.messages[1]
    assert "comes after a special token" in caplog.messages[0]


def keys_of(folder):
    keys = gguf_tokenizer(folder, 510)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": keys.tokens,
        "tokenizer.ggml.token_type": keys.token_types,
        "tokenizer.ggml.scores": keys.scores,
    }


def test_what_a_file_does_not_say(sentencepiece_folder, tmp_path):
    """bos goes first, unk, bos and eos are 0, 1, 2, and a space goes before each text."""
    from wf_formats.tokenizer.from_gguf import _from_keys

    folder = sentencepiece_folder(tmp_path)
    ours, theirs = _from_keys(keys_of(folder)), read_tokenizer(folder)
    assert ours.backend.encode(" a </s> b").ids == theirs.backend.encode(" a </s> b").ids
    assert ours.special_tokens == theirs.special_tokens


BROKEN = {
    "scores": ([1.0], "has 1 entries for 510"),
    "tokens": (["a"] * 510, "the same token twice"),
    "bos_token_id": (510, "there are 510 tokens"),
}


@pytest.mark.parametrize("key", BROKEN)
def test_damaged_keys_are_named(sentencepiece_folder, tmp_path, key):
    from wf_formats.tokenizer.from_gguf import _from_keys

    value, message = BROKEN[key]
    with pytest.raises(TokenizerError, match=message):
        _from_keys(keys_of(sentencepiece_folder(tmp_path)) | {f"tokenizer.ggml.{key}": value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({PREFIX_KEY: "sometimes"}, "'sometimes'; known are none, every"),
        ({"tokenizer.ggml.scores": [float("nan")] * 510}, "no number"),
        ({"tokenizer.ggml.token_type": [5] * 510}, "lacks 256 bytes"),
    ],
)
def test_values_without_a_meaning_are_refused(sentencepiece_folder, tmp_path, change, message):
    from wf_formats.tokenizer.from_gguf import _from_keys

    with pytest.raises(TokenizerError, match=message):
        _from_keys(keys_of(sentencepiece_folder(tmp_path)) | change)
