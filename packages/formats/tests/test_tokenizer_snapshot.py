"""A tokenizer as arrays: the same ids, bytes and facts come back, or it is refused when it is made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from wf_formats.tokenizer import TokenizerError, TokenizerSource, read_tokenizer, token_bytes
from wf_formats.tokenizer.snapshot import TokenTable, read_snapshot, snapshot
from wf_formats.tokenizer.spec_lists import backend_of, lists_of
from wf_formats.tokenizer.vocabulary import num_model_tokens, source_beyond

TEXTS = [
    "the",
    " Hello, world!  3.14",
    "naïve Привет 你好 \U0001f600",
    "<s>x</s> ▁▁ \n\n",
    "<|im_start|>user",
]


def check_same(source: TokenizerSource, num_rows: int) -> None:
    again = read_snapshot(snapshot(source, num_rows))
    assert list(token_bytes(again)) == list(token_bytes(source))
    assert num_model_tokens(again) == num_model_tokens(source)
    for name in ("special_tokens", "eos_ids", "chat_template", "pieces", "puts_space_first"):
        assert getattr(again, name) == getattr(source, name)
    for text in TEXTS:
        for special in (True, False):
            one, two = (of.backend.encode(text, add_special_tokens=special) for of in (source, again))
            assert one.ids == two.ids


def test_the_packaged_models_tokenizer_comes_back(packaged_gguf: Path):
    source = read_tokenizer(packaged_gguf)
    check_same(source, 49152)
    again = read_snapshot(snapshot(source, 49152))
    assert source_beyond(again, 49152) is None
    assert source_beyond(again, 49000) == source_beyond(source, 49000)
    assert source_beyond(again, 49000) is not None


@pytest.mark.parametrize("kind", ["llama2", "mistral", "gemma"])
def test_sentencepiece_tokenizers_come_back(sentencepiece_folder, tmp_path, kind):
    added = {"<|end|>": {"rstrip": True}, "<fim>": {"special": False}}
    check_same(read_tokenizer(sentencepiece_folder(tmp_path, kind, added)), 510)


ODD = ["<unk>", "\0", "\n", "a b", "a", "##b", "ab", "\u2028"]


@pytest.mark.parametrize(
    "model",
    [
        models.BPE(
            {token: index for index, token in enumerate(ODD)},
            [("a", "##b")],
            unk_token="<unk>",
            continuing_subword_prefix="##",
            end_of_word_suffix="",
            fuse_unk=True,
            ignore_merges=True,
        ),
        models.Unigram([(token, -float(index)) for index, token in enumerate(ODD)], 0, False),
        models.WordLevel({token: index for index, token in enumerate(ODD)}, "<unk>"),
    ],
    ids=["BPE", "Unigram", "WordLevel"],
)
def test_every_kind_of_model_comes_back(model):
    backend = Tokenizer(model)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken("<one>", lstrip=True), AddedToken("two words", single_word=True)])
    backend.add_special_tokens([AddedToken("<end>"), AddedToken("a", normalized=True)])
    again = backend_of(lists_of(backend.to_str()))
    assert again.to_str() == backend.to_str()
    assert again.get_vocab() == backend.get_vocab()
    for text in ("ab a b", "<one>two words<end>", "a\0\n\u2028x"):
        assert again.encode(text).ids == backend.encode(text).ids


def test_added_tokens_after_a_gap_are_refused():
    vocab = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    spec = json.loads(Tokenizer(models.BPE(vocab, [])).to_str())
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<a>")])
    source = TokenizerSource(backend)
    check_same(source, 257)

    class Renumbering:
        """A library that gives back another id than it was given."""

        def __getattr__(self, name: str) -> object:
            return getattr(backend, name)

        def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
            return backend.get_vocab(with_added_tokens) | {"<a>": 300}

    with pytest.raises(TokenizerError, match="gives back another vocabulary"):
        snapshot(TokenizerSource(Renumbering()), 400)  # type: ignore[arg-type]


def test_the_table_of_tokens_is_a_sequence():
    table = TokenTable(np.frombuffer(b"abcdef", np.uint8), np.array([1, 1, 4, 6], np.uint32))
    assert list(table) == [b"a", b"", b"bcd", b"ef"]
    assert table[1:3] == [b"", b"bcd"]
    with pytest.raises(IndexError):
        table[4]


@pytest.mark.parametrize("ends", [[1, 0, 6], [7], [5], []])
def test_ends_that_do_not_fit_are_refused(ends):
    with pytest.raises(TokenizerError, match="does not end at its 6 bytes"):
        TokenTable(np.frombuffer(b"abcdef", np.uint8), np.array(ends, np.uint32))


@pytest.mark.parametrize("name", ["spec", "facts"])
@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_snapshot_is_refused(byte_source, name, data):
    arrays = snapshot(byte_source, 257) | {f"tokenizer/{name}": np.frombuffer(data, np.uint8)}
    with pytest.raises(TokenizerError):
        read_snapshot(arrays)


@pytest.fixture
def byte_source() -> TokenizerSource:
    vocab = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.decoder = decoders.ByteLevel()
    return TokenizerSource(backend)
