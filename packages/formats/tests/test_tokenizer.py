"""A folder's tokenizer -> GGUF keys -> tokenizer: the same ids; what has no equal there is refused."""

import json
import shutil

import pytest
from gguf_files import finish

from wf_formats.tokenizer import TokenizerError, gguf_tokenizer, read_tokenizer
from wf_formats.tokenizer.rules import RULES, rule_named, rule_of

TEXTS = [
    "In 2024, 12345 apples cost 3.50!",
    "def f(x):\n    return x  # don't\n\n\nprint(f(007))",
    "I'LL we're they've  two  spaces\ttab\r\nend   ",
    "naïve café e\u0301 日本語 🙂 ²³ ½ HTTPServer iPhone a/b//c ǅx",
    "<|im_start|>user\nhello<|im_end|>\n",
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("add_bos", [False, True])
def test_both_directions(tokenizer_folder, tmp_path, rule, add_bos):
    import gguf

    folder = tokenizer_folder(rule.name, add_bos)
    keys = gguf_tokenizer(folder, 520)
    assert (keys.pre, keys.add_bos) == (rule.name, add_bos)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    keys.write(writer)
    finish(writer)
    ours, theirs = read_tokenizer(tmp_path / "t.gguf"), read_tokenizer(folder)
    for text in TEXTS:
        assert ours.backend.encode(text).ids == theirs.backend.encode(text).ids
    assert ours.special_tokens == theirs.special_tokens
    assert ours.eos_ids == theirs.eos_ids == {2}
    assert ours.chat_template == theirs.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    ("stated", "in_file", "num_lost"),
    [
        (None, {2}, 0),
        (2, {2}, 0),
        (0, {2, 0}, 0),
        ([2, 0], {2, 0}, 0),
        ([7, 2, 9], {2, 7, 9}, 0),
        ([7, 2, 9, 11, 12], {2, 7, 9}, 2),
        ([600, 7, "x", True, -1], {2, 7}, 0),
        ("x", {2}, 0),
    ],
)
def test_every_end_of_an_answer_is_kept(
    tokenizer_folder, tmp_path, stated, in_file, num_lost, caplog: pytest.LogCaptureFixture
):
    """As generation_config.json states them: eos, eot and eom of the file; what has no place is said."""
    import gguf

    folder = shutil.copytree(tokenizer_folder("smollm"), tmp_path / "folder")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    gguf_tokenizer(folder, 520).write(writer)
    finish(writer)
    assert read_tokenizer(tmp_path / "t.gguf").eos_ids == in_file
    lost = [record for record in caplog.records if "left out" in record.getMessage()]
    assert len(lost) == (num_lost > 0)
    assert read_tokenizer(folder).eos_ids >= in_file


def test_tekken_splits_by_case_and_digit():
    pieces = rule_named("tekken").pre_tokenizer().pre_tokenize_str("HTTPServer don't 2024 a/b")
    assert [piece for piece, _ in pieces] == [
        "HTTPServer", "Ġdon", "'t", "Ġ", "2", "0", "2", "4", "Ġa", "/b"
    ]  # fmt: skip


CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
PUBLISHED = {
    "Llama 3": (CL100K, "Isolated", False, True, "llama-bpe"),
    "SmolLM3": (CL100K, "Isolated", False, True, "llama-bpe"),
    "Qwen 2.5 and 3": (CL100K.replace(r"\p{N}{1,3}", r"\p{N}"), "Isolated", False, False, "qwen2"),
    "Mistral Nemo and Small": (TEKKEN, "Isolated", False, True, "tekken"),
    "Phi-4": (CL100K, "Removed", True, False, "dbrx"),
    "Phi-4, saved by transformers": (CL100K, "Isolated", False, False, "dbrx"),
    "Phi-4-mini": (O200K, "Removed", True, False, "gpt-4o"),
    "Phi-4-mini, saved by transformers": (O200K, "Isolated", False, False, "gpt-4o"),
}
"""Pattern, behavior, invert and ignore_merges, and llama.cpp's name."""


def published(regex: str, behavior: str, invert: bool, ignore_merges: bool) -> dict:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {"type": "BPE", "ignore_merges": ignore_merges, "vocab": {"a": 0}, "merges": []},
    }


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_definitions_are_recognised(model):
    *definition, name = PUBLISHED[model]
    assert rule_of(published(*definition)).name == name


@pytest.mark.parametrize(
    ("behavior", "invert"), [("Removed", False), ("MergedWithNext", False), ("Contiguous", True)]
)
def test_other_uses_of_a_pattern_are_another_rule(behavior, invert):
    with pytest.raises(TokenizerError, match="no known equal"):
        rule_of(published(O200K, behavior, invert, False))


def test_ignored_merges_matter_only_for_tokens_that_no_merge_makes():
    spec = published(O200K, "Isolated", False, True)
    spec["model"] |= {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    assert rule_of(spec).name == "gpt-4o"
    spec["model"]["vocab"]["<s>"] = 3
    spec["added_tokens"] = [{"id": 3, "content": "<s>", "special": True}]
    assert rule_of(spec).name == "gpt-4o"
    spec["model"]["vocab"]["ba"] = 4
    with pytest.raises(TokenizerError, match="no merges make the token 'ba'"):
        rule_of(spec)


@pytest.mark.parametrize(("kind", "warns"), [("tekken", True), ("gpt-4o", True), ("dbrx", False)])
def test_rules_that_llamacpp_has_for_ascii_alone_are_said(tokenizer_folder, caplog, kind, warns):
    gguf_tokenizer(tokenizer_folder(kind), 520)
    assert ("only where letters are ASCII" in caplog.text) is warns


def test_special_ids_types_and_padding(tokenizer_folder):
    found = gguf_tokenizer(tokenizer_folder("smollm"), vocab_size=520)
    assert found.special_ids == {"bos": 1, "eos": 2, "unk": 0, "pad": 2}
    assert (found.add_bos, found.add_eos) == (False, False)
    assert found.token_types[:4] == [3, 3, 3, 1]
    assert found.tokens[512:] == [f"[PAD{i}]" for i in range(512, 520)]
    assert set(found.token_types[512:]) == {5}
    assert found.chat_template == "{{ messages }}"


def test_more_tokens_than_embeddings_are_refused(tokenizer_folder):
    with pytest.raises(TokenizerError, match="the embedding matrix only 500 rows"):
        gguf_tokenizer(tokenizer_folder("smollm"), vocab_size=500)


def test_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        gguf_tokenizer(tmp_path, 512)


def edited(tokenizer_folder, change):
    folder = tokenizer_folder("smollm")
    spec = json.loads((folder / "tokenizer.json").read_text())
    change(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["model"].update(byte_fallback=True), "its byte fallback lacks 256 bytes"),
        (lambda s: s["model"].update(merges=[]), "has no merges"),
        (lambda s: s.update(normalizer={"type": "Lowercase"}), "normalizer Lowercase"),
        (
            lambda s: s["pre_tokenizer"]["pretokenizers"][0].update(individual_digits=False),
            r"tokenizer\.ggml\.pre: .*Digits.*known: gpt-2",
        ),
        (lambda s: s.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
    ],
)
def test_tokenizers_without_an_equal_are_refused(tokenizer_folder, change, message):
    with pytest.raises(TokenizerError, match=message):
        gguf_tokenizer(edited(tokenizer_folder, change), 512)


def test_post_processors_beyond_bos_and_eos_are_refused(tokenizer_folder):
    def add_foreign_prefix(spec):
        spec["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
            },
        }

    with pytest.raises(TokenizerError, match="GGUF can only add bos and eos"):
        gguf_tokenizer(edited(tokenizer_folder, add_foreign_prefix), 512)


def test_unknown_pre_tokenizer_shows_its_definition():
    with pytest.raises(TokenizerError, match="Metaspace"):
        rule_of({"pre_tokenizer": {"type": "Metaspace"}})


def test_several_templates_are_refused_for_gguf_and_read_here(tokenizer_folder):
    folder = tokenizer_folder("smollm")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    assert read_tokenizer(folder).chat_template == "d"
    with pytest.raises(TokenizerError, match="several named templates"):
        gguf_tokenizer(folder, 512)


def test_other_kinds_are_refused_by_name(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tokenizer_model("t5")
    finish(writer)
    with pytest.raises(TokenizerError, match="model is 't5'; supported are"):
        read_tokenizer(tmp_path / "t.gguf")
