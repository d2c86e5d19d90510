"""tokenizer.json of people who mean harm, or damaged: refused in bounded time, by name, without a panic."""

import json
import random

import pytest

from wf_formats.tokenizer import TokenizerError, read_files, read_tokenizer, rust_errors, rust_panics
from wf_formats.tokenizer.support import tokenizer_support
from wf_formats.tokenizer.vocabulary import token_beyond


def spec_of(folder):
    return json.loads((folder / "tokenizer.json").read_text())


def read(folder, spec):
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return read_tokenizer(folder)


def vocab(**changes):
    return lambda s: s["model"]["vocab"].update(changes)


def added(**changes):
    return lambda s: s["added_tokens"][0].update(changes)


def step(part, **values):
    return lambda s: s.update({part: values})


HOSTILE = {
    "huge id": (vocab(a=300_000_000), "id 300000000; with .* ids are whole numbers below"),
    "negative id": (vocab(a=-1), "id -1;"),
    "fractional id": (vocab(a=1.5), r"id 1\.5;"),
    "id of another type": (vocab(a=True), "id True;"),
    "the same id twice": (vocab(a=1), "have the same id"),
    "no vocabulary": (lambda s: s["model"].update(vocab=[]), "vocab is"),
    "model is none": (lambda s: s.update(model=5), "model is 5"),
    "unknown model": (lambda s: s["model"].update(type="Neural"), "'Neural'; known are BPE"),
    "huge added id": (added(id=300_000_000), "id 300000000;"),
    "added without text": (added(content=""), "without a text"),
    "added text is none": (added(content=5), "without a text"),
    "added twice": (lambda s: s["added_tokens"].append(s["added_tokens"][0]), "twice"),
    "added with another id": (added(id=400), "another id in model.vocab"),
    "added after a gap": (
        lambda s: s["added_tokens"].append(s["added_tokens"][0] | {"id": 700, "content": "<new>"}),
        "a gap before it",
    ),
    "half a character in a token": (vocab(**{"\ud800": 499}), "half a character"),
    "half a character in an added token": (added(content="<\udc00>"), "half a character"),
    "merge of three": (lambda s: s["model"]["merges"].append(["a", "b", "c"]), "not two tokens"),
    "merge of a number": (lambda s: s["model"]["merges"].append(7), "not two tokens"),
    "merge beyond the vocabulary": (lambda s: s["model"]["merges"].append(["zz", "qq"]), "has not"),
    "no merges": (lambda s: s["model"].update(merges=None), "merges is None"),
    "unknown step": (step("normalizer", type="Evil"), "unknown type 'Evil'"),
    "step that is none": (lambda s: s.update(decoder=[1]), "unknown type None"),
    "endless sequences": (
        lambda s: s.update(normalizer=nested(9)), "sequences deeper than"
    ),
    "many steps": (
        step("normalizer", type="Sequence", normalizers=[{"type": "NFC"}] * 999), "999 steps"
    ),
    "doubling": (
        step(
            "normalizer", type="Sequence",
            normalizers=[{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40,
        ),
        "times as long",
    ),
    "empty pattern": (
        step("normalizer", type="Replace", pattern={"String": ""}, content="b"), "the pattern"
    ),
    "endless pattern": (
        step("pre_tokenizer", type="Split", pattern={"Regex": "a|" * 9999 + "b"}, behavior="Isolated"),
        "1 to 4096 characters",
    ),
    "repetitions": (
        step("pre_tokenizer", type="Split", pattern={"Regex": "((a{999}){999}){99}"}, behavior="Isolated"),
        "repeats parts of its pattern",
    ),
    "pattern that is none": (
        step("pre_tokenizer", type="Split", pattern={"Regex": "("}, behavior="Isolated", invert=False),
        "is damaged",
    ),
    "huge number": (step("pre_tokenizer", type="FixedLength", length=10**18), "the number 1000"),
    "pieces of no length": (step("pre_tokenizer", type="FixedLength", length=0), "length 0"),
    "strip at the end": (step("decoder", type="Strip", content=" ", start=0, stop=3), "off the end"),
    "endless text": (step("normalizer", type="Prepend", prepend="x" * 10**6), "1000000 characters"),
    "undefined special token": (
        step(
            "post_processor", type="TemplateProcessing", special_tokens={}, pair=[],
            single=[{"SpecialToken": {"id": "<s>", "type_id": 0}}],
        ),
        "special_tokens do not define",
    ),
    "charsmap": (step("normalizer", type="Precompiled", precompiled_charsmap="BAAAAAAAAABhYmMA"), "outside"),
    "charsmap no base64": (step("normalizer", type="Precompiled", precompiled_charsmap="?"), "charsmap"),
    "padding by gigabytes": (
        step("padding", strategy={"Fixed": 10**10}, direction="Right"), "padding cannot"
    ),
    "padding to multiples of 0": (step("padding", strategy="BatchLongest", pad_to_multiple_of=0), "padding"),
    "dropout": (lambda s: s["model"].update(dropout=0.5), "other ids each time; set it to null"),
    "truncation that never ends": (step("truncation", max_length=4, stride=4), "truncation cannot"),
}  # fmt: skip


def nested(depth):
    return {"type": "Sequence", "normalizers": [nested(depth - 1)]} if depth else {"type": "NFC"}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(sentencepiece_folder, tmp_path, case):
    change, message = HOSTILE[case]
    spec = spec_of(sentencepiece_folder(tmp_path))
    change(spec)
    with pytest.raises(TokenizerError, match=message):
        read(tmp_path, spec)


def test_unigram_models_are_checked_too(sentencepiece_folder, tmp_path):
    spec = spec_of(sentencepiece_folder(tmp_path))
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["<s>", -1], ["</s>", -2.5]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {"model": model}))
    assert read_files(tmp_path).backend().get_vocab_size() == 3
    for change in ({"unk_id": 9}, {"vocab": [["a"]]}, {"vocab": [["a", float("inf")]]}, {"vocab": {}}):
        with pytest.raises(TokenizerError, match=r"model\."):
            read(tmp_path, spec | {"model": model | change})


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "\ufeff{}", '{"model": ' * 5000, '{"a": ' + "9" * 10**4 + "}"]
)
def test_files_that_are_no_json_object(sentencepiece_folder, tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        read_files(tmp_path)


CONFIG_TOKENS = {
    "known": ({"1": {"content": "<s>", "special": True}}, None),
    "new": ({"500": {"content": "<a>"}, "501": {"content": "<b>", "special": True}}, None),
    "a list": ([1], r"added_tokens_decoder is \[1\]"),
    "no id": ({"one": {"content": "<s>"}}, "the entry 'one'"),
    "no token": ({"500": 7}, "the entry '500'"),
    "no text": ({"500": {"content": ["a"]}}, "the entry '500'"),
    "text alone": ({"500": "<a>"}, "the entry '500'"),
    "a gap": ({"700": {"content": "<a>"}}, "'<a>' the id 700, which is not free"),
    "beyond all": ({"9" * 30: {"content": "<a>"}}, "which is not free"),
    "of another": ({"5": {"content": "<a>"}}, "'<a>' the id 5, which is not free"),
    "another": ({"5": {"content": "<s>"}}, "'<s>' the id 5, which is not free"),
}


@pytest.mark.parametrize("case", CONFIG_TOKENS)
def test_tokens_of_the_configuration_have_their_ids(sentencepiece_folder, tmp_path, case):
    listed, message = CONFIG_TOKENS[case]
    files = read_files(sentencepiece_folder(tmp_path, added_tokens_decoder=listed))
    if message is None:
        backend = files.backend()
        assert all(backend.token_to_id(entry["content"]) == int(key) for key, entry in listed.items())
        return
    with pytest.raises(TokenizerError, match=f"tokenizer_config.json.*{message}"):
        files.backend()


def put_in(index, single=True):
    """A post-processor that puts the token of an id around text, or between two."""
    text = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    token = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    special = {"<s>": {"id": "<s>", "ids": [index], "tokens": ["<s>"]}}
    return step(
        "post_processor", type="TemplateProcessing", special_tokens=special,
        single=[token, text[0]] if single else text[:1], pair=[token, *text],
    )  # fmt: skip


BEYOND = {
    "all have rows": (500, lambda s: None, "", (), None),
    "text makes it": (499, lambda s: None, "", (), 499),
    "a step puts it in": (500, put_in(500), "", (), 500),
    "a step puts an absurd one in": (500, put_in(10**5), "", (), 10**5),
    "between two texts": (500, put_in(700, single=False), "", (), 700),
    "BERT's step": (
        500, step("post_processor", type="BertProcessing", sep=["a", 3], cls=["b", 600]), "", (), 600
    ),
    "RoBERTa's step": (
        500,
        step("post_processor", type="RobertaProcessing", sep=["a", 600], cls=["b", 3], trim_offsets=True,
             add_prefix_space=False),
        "", (), 600,
    ),
    "nothing makes it": (500, lambda s: more(s, special=True), "", (), None),
    "it is no special token": (500, lambda s: more(s, special=False), "", (), 500),
    "the template writes it": (500, lambda s: more(s, special=True), "<more>{{ x }}", (), 500),
    "it has a role": (500, lambda s: more(s, special=True), "", ("<more>",), 500),
    "it is unused and put in": (500, lambda s: (more(s, special=True), put_in(500)(s)), "", (), 500),
}  # fmt: skip


def more(spec, **flags):
    spec["added_tokens"].append(spec["added_tokens"][0] | {"id": 500, "content": "<more>"} | flags)


@pytest.mark.parametrize("case", BEYOND)
def test_what_is_made_has_a_row_in_the_model(sentencepiece_folder, tmp_path, case):
    rows, change, template, special, beyond = BEYOND[case]
    spec = spec_of(sentencepiece_folder(tmp_path))
    change(spec)
    found = token_beyond(read(tmp_path, spec).backend, rows, template, special)
    assert found is beyond is None or found[1] == beyond


G, N = "gguf", "native"
OTHER_MODELS = {
    "Unigram": {"type": "Unigram", "unk_id": 0, "vocab": [["<|endoftext|>", -1], ["<|im_start|>", -2]]},
    "WordPiece": {"type": "WordPiece", "unk_token": "<|endoftext|>", "vocab": {"<|endoftext|>": 0}},
    "WordLevel": {"type": "WordLevel", "unk_token": "<|endoftext|>", "vocab": {"<|endoftext|>": 0}},
}
SUPPORT = {
    "byte-level": ("smollm", lambda s: None, (), ""),
    "lower case": ("smollm", step("normalizer", type="Lowercase"), ("gguf",), "normalizer Lowercase"),
    "another splitting rule": (
        "qwen2",
        lambda s: s["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="x+|[^x]+"),
        ("gguf",),
        "no known equal of the pre-tokenizer",
    ),
    "no merges": ("smollm", lambda s: s["model"].update(merges=[]), ("gguf",), "no merges"),
    "another decoder": ("smollm", step("decoder", type="Fuse"), ("native",), "its decoder"),
    **{
        kind: ("smollm", lambda s, model=model: s.update(model=model, decoder={"type": "Fuse"}), (G, N), "")
        for kind, model in OTHER_MODELS.items()
    },
    "SentencePiece": ("llama2", lambda s: None, (), ""),
    "SentencePiece and more": (
        "llama2",
        lambda s: s["normalizer"]["normalizers"].append({"type": "NFKC"}),
        ("gguf", "native"),
        "none of SentencePiece's",
    ),
}


@pytest.mark.parametrize("case", SUPPORT)
def test_what_a_tokenizer_can_become(sentencepiece_folder, tokenizer_folder, tmp_path, case):
    kind, change, closed, reason = SUPPORT[case]
    folder = sentencepiece_folder(tmp_path) if kind == "llama2" else tokenizer_folder(kind)
    spec = spec_of(folder)
    change(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    found = tokenizer_support(folder, 512)
    assert found["llamacpp"] == found["gguf"]
    assert {target for target in ("gguf", "hf", "native") if found[target] is not None} == {*closed}
    for target in closed:
        assert reason in found[target]
        assert str(folder) not in found[target]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0].content }}", None),
        ("{{ raise_exception('a system message first') }}", None),
        ("{{ 'a' * 10 ** 12 }}", "needs more than 512 MB"),
        ("{% if %}", "is damaged"),
        pytest.param(
            "{{ (9 ** 9) ** (9 ** 8) }}", "computes for more than 2 s", marks=pytest.mark.slow, id="folded"
        ),
    ],
)
def test_a_template_is_tried_as_the_engine_will(sentencepiece_folder, tmp_path, template, reason):
    folder = sentencepiece_folder(tmp_path)
    (folder / "chat_template.jinja").write_text(template)
    found = tokenizer_support(folder, 512)
    assert found["gguf"] is found["hf"] is None
    assert (found["native"] is None) if reason is None else (reason in found["native"])


def test_half_characters_in_the_configuration(sentencepiece_folder, tmp_path):
    sentencepiece_folder(tmp_path, chat_template="\ud83d")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json has half a character"):
        read_files(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json", "tekken.json"])
def test_tokenizers_of_other_libraries_are_named_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x0a")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(TokenizerError, match=rf"only {name}; make it once .*save_pretrained"):
        read_files(tmp_path)


class PanicException(BaseException):
    pass


def test_panics_become_errors():
    with (
        pytest.raises(TokenizerError, match="tokenizer makes the tokenizers library fail: boom"),
        rust_panics("tokenizer"),
    ):
        raise PanicException("boom")
    with pytest.raises(TokenizerError, match="library fail"), rust_errors("x"):
        raise PanicException("boom")
    with pytest.raises(KeyboardInterrupt), rust_errors("x"):
        raise KeyboardInterrupt


VALUES = [
    None, True, 0, -1, 3, 2**31, 2**64, 300_000_000, 10**30, 1.5, float("nan"), "", "a", "<s>", "\ud800", "(",
    [], {}, [[]], ["a", "b"], {"type": "Sequence"}, {"String": ""}, {"Regex": "(?<=a*)b"},
    {"Regex": "a{50000}"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 5, "stop": 9}, "Isolated", "first",
    {"type": "Replace", "pattern": {"Regex": ".*"}, "content": "x"},
]  # fmt: skip


def fuzz(folder, mutate, rounds, seed):
    """How many mutated files were refused; each is read or refused, and encodes and decodes if read."""
    rng, refused = random.Random(seed), 0
    data = (folder / "tokenizer.json").read_bytes()
    for _ in range(rounds):
        (folder / "tokenizer.json").write_bytes(mutate.json_of(data, rng, VALUES))
        try:
            source = read_tokenizer(folder)
            for text in ("", "Hello  world é日本🙂\r\n <s>x</s> y", "a" * 2000):
                with rust_errors("text"):
                    source.backend.decode(source.backend.encode(text).ids)
        except TokenizerError:
            refused += 1
    return refused


@pytest.mark.parametrize("kind", ["llama2", "mistral", "gemma"])
def test_mutated_files_are_read_or_refused(sentencepiece_folder, tmp_path, mutate, kind):
    assert 50 < fuzz(sentencepiece_folder(tmp_path, kind), mutate, 100, 1) < 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_many_mutated_files(sentencepiece_folder, tokenizer_folder, tmp_path, mutate, seed):
    folders = [sentencepiece_folder(tmp_path / "s", "mistral"), tokenizer_folder("llama-bpe", add_bos=True)]
    assert sum(fuzz(folder, mutate, 500, seed) for folder in folders) > 500
