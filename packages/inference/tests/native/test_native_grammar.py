"""Answers held to a grammar, drawn at random: with every kind of tokenizer they are what was asked for."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wrinklefree_inference.native.grammar import GrammarError, Grammars
from wrinklefree_inference.native.tokenizer import StreamDecoder, load_tokenizer
from wrinklefree_inference.tool_calls.forms import FORMS, HERMES, LLAMA, MISTRAL, MISTRAL_ARGS
from wrinklefree_inference.tool_calls.grammars import Function, JsonContent, calls_grammar, json_grammar
from wrinklefree_inference.tool_calls.reading import CallBegun, CallGoesOn, CallReader, Content

SPECIAL = {name: {} for name in ("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>")}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "ends": {"enum": ["</s>", "<|im_end|>", "ä🙂 b"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "is_none": {"type": "null"},
    },
    "required": ["name", "age", "ends", "tags"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"enum": ["Bern", "a b"]}}, "required": ["city"]}
FUNCTIONS = [Function("person", PERSON), Function("per", CITY | {"additionalProperties": False})]


@pytest.fixture(scope="module", params=["packaged", "llama2", "gemma"])
def tokenizer(request, packaged_gguf, sentencepiece_folder, tmp_path_factory):
    if request.param == "packaged":
        return load_tokenizer(packaged_gguf)
    folder = tmp_path_factory.mktemp(request.param)
    return load_tokenizer(sentencepiece_folder(folder, request.param, SPECIAL, 998))


@pytest.fixture(scope="module")
def grammars(tokenizer) -> Grammars:
    return Grammars(tokenizer.vocabulary(tokenizer.num_tokens + 3))  # models have rows without tokens


def allowed(constraint) -> list[int]:
    return np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")).tolist()


def drawn(grammar, tokenizer, rng) -> str:
    """A text of tokens drawn among those allowed."""
    constraint, stream, text = grammar.new(), StreamDecoder(tokenizer, skip_special=False), ""
    for _ in range(2000):
        ids = allowed(constraint)
        token_id = rng.choice(ids)
        constraint.accept(token_id)
        if token_id in tokenizer.eos_ids:
            assert constraint.is_over
            break
        assert tokenizer.token_bytes(token_id)
        text += stream.push(token_id)
        if constraint.is_over:
            break
    else:
        pytest.fail(f"no end: {text[:500]}")
    return text + stream.flush()


def check_person(person) -> None:
    assert set(person) <= set(PERSON["properties"])
    assert len(person["name"]) <= 12
    assert type(person["age"]) is int
    assert 0 <= person["age"] <= 130
    assert person["ends"] in PERSON["properties"]["ends"]["enum"]
    assert all(type(tag) is bool for tag in person["tags"])
    assert 1 <= len(person["tags"]) <= 3
    assert person.get("is_none") is None


def test_json_of_a_schema(tokenizer, grammars):
    text = json_grammar(PERSON, is_strict=True)
    grammar = grammars.compile(text, {"x": text})
    texts = {drawn(grammar, tokenizer, random.Random(seed)) for seed in range(12)}
    assert len(texts) == 12
    for one in texts:
        check_person(json.loads(one))


def test_white_space_is_bounded(tokenizer, grammars):
    """Where it could come at any length, this model's answer had many in a row and seldom ended."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"const": True},
            "b": {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    grammar = grammars.compile(json_grammar(schema, is_strict=True), {})
    for seed in range(40):
        text = drawn(grammar, tokenizer, random.Random(seed))
        assert re.fullmatch(r'\{"a": ?true, ?"b": ?\[1, ?1\]\}', text), text


def read(form, text, must_call):
    reader = CallReader(form, must_call)
    parts = [part for char in text for part in reader.feed(char)] + reader.finish()
    names = [part.name for part in parts if isinstance(part, CallBegun)]
    arguments = ["" for _ in names]
    for part in parts:
        if isinstance(part, CallGoesOn):
            arguments[part.index] += part.arguments
    content = "".join(part.text for part in parts if isinstance(part, Content))
    return content, list(zip(names, map(json.loads, arguments), strict=True)), reader.has_whole_calls


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_required_calls(form, tokenizer, grammars):
    found = {name: tokenizer.special_id(name) for name in form.may_be_special}
    form = form.with_special({name: index for name, index in found.items() if index is not None})
    text = calls_grammar(form, FUNCTIONS, is_required=True, is_parallel=True)
    grammar = grammars.compile(text, {})
    numbers = set()
    for seed in range(8):
        content, calls, is_whole = read(form, drawn(grammar, tokenizer, random.Random(seed)), True)
        assert is_whole
        assert content == ""
        for name, arguments in calls:
            check_person(arguments) if name == "person" else arguments["city"].index
        numbers.add(len(calls))
    assert numbers == {1} if form.between is None else len(numbers) > 1


@pytest.mark.parametrize("form", [HERMES, LLAMA, MISTRAL, MISTRAL_ARGS], ids=lambda form: form.name)
def test_the_marker_begins_a_call_and_nothing_else_does(form, tokenizer, grammars):
    """Given the marker, a weak model has to call; before it, it may say anything."""
    found = {name: tokenizer.special_id(name) for name in form.may_be_special}
    form = form.with_special({name: index for name, index in found.items() if index is not None})
    text = calls_grammar(form, FUNCTIONS, is_required=False, is_parallel=False)
    grammar = grammars.compile(text, {})
    words = "" if form.leads else 'I {"x": [1]} see.\n'
    constraint = grammar.new()
    for part in (words, form.marker):
        ids = (
            [form.special[part]]
            if part in form.special
            else tokenizer.vocabulary(tokenizer.num_tokens).encode(part)
        )
        for token_id in ids:
            mask = allowed(constraint)
            assert token_id in mask
            constraint.accept(token_id)
        if part == words:
            assert tokenizer.eos_ids & set(allowed(constraint))
    ids = allowed(constraint)
    assert not tokenizer.eos_ids & set(ids)
    follows = form.opening.removeprefix(form.marker) or "per"
    assert {tokenizer.token_bytes(index)[:1] for index in ids} <= {follows.encode()[:1], b"p"}
    assert not set(ids) & tokenizer.special_ids


def follow(constraint, tokenizer, *parts) -> None:
    """Each part, a text or the id of a special token, is what may come next."""
    for part in parts:
        for token_id in [part] if isinstance(part, int) else tokenizer.vocabulary(900).encode(part):
            assert token_id in allowed(constraint), (part, tokenizer.token_bytes(token_id))
            constraint.accept(token_id)


@pytest.mark.parametrize("form", [HERMES, MISTRAL_ARGS], ids=lambda form: form.name)
@pytest.mark.parametrize("is_opened", [False, True])
def test_a_thought_of_special_tokens_may_come_before_a_call(form, is_opened, tokenizer, grammars):
    form = form.with_special(
        {name: index for name in form.may_be_special if (index := tokenizer.special_id(name)) is not None}
    )
    if form.thinking is None:
        assert "<think>" not in form.special
        return
    opening, closing = (form.special[name] for name in form.thinking)
    grammar = grammars.compile(calls_grammar(form, FUNCTIONS, is_required=False, is_parallel=False), {})
    marker = form.special.get(form.marker, form.marker)
    thought = ([] if is_opened else [opening]) + ["Let me see.", closing]
    constraint = grammar.new()
    follow(constraint, tokenizer, *thought)
    assert not {opening, closing} & set(allowed(constraint))  # one thought
    follow(constraint, tokenizer, "So: ", marker)
    assert not tokenizer.eos_ids & set(allowed(constraint))  # now it has to call
    constraint = grammar.new()
    follow(constraint, tokenizer, *thought, "It is fine.")
    assert tokenizer.eos_ids & set(allowed(constraint))
    constraint = grammar.new()
    follow(constraint, tokenizer, opening, "Let me see.")
    assert not tokenizer.eos_ids & set(allowed(constraint))  # a thought that was begun has an end
    required = grammars.compile(calls_grammar(form, FUNCTIONS, is_required=True, is_parallel=False), {})
    assert not {opening, closing} & set(allowed(required.new()))


def test_content_or_calls(tokenizer, grammars):
    text = calls_grammar(
        HERMES, FUNCTIONS, is_required=False, is_parallel=False, content=JsonContent(PERSON, True)
    )
    grammar = grammars.compile(text, {})
    kinds = set()
    for seed in range(12):
        content, calls, _ = read(HERMES, drawn(grammar, tokenizer, random.Random(seed)), False)
        kinds.add(bool(calls))
        if not calls:
            check_person(json.loads(content))
    assert kinds == {True, False}


def test_many_answers_have_states_of_their_own(grammars, tokenizer):
    grammar = grammars.compile(json_grammar(CITY, is_strict=True), {})
    first, second = grammar.new(), grammar.new()
    begin = allowed(first)
    first.accept(begin[0])
    assert allowed(second) == begin
    assert allowed(first) != begin


def test_a_grammar_is_compiled_once(grammars):
    text = json_grammar(CITY, is_strict=True)
    assert grammars.compile(text, {}) is grammars.compile(text, {})
    for i in range(40):
        grammars.compile(json_grammar({"const": i}, is_strict=True), {})
    assert len(grammars._kept) == 32


@pytest.fixture
def byte_grammars(packaged_gguf, module_of) -> Grammars:
    return Grammars(module_of(Path(__file__).parent.parent / "http" / "toy_engine.py").BYTES)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "multipleOf": 99_999_989}, "computes for more than 1 s"),
        (
            {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(9)]} for i in range(9)]},
            "too large",
        ),
        ({"type": "string", "pattern": "("}, "regex parse error: .* unclosed group"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            "nothing fits",
        ),
    ],
    ids=["long", "wide", "no pattern", "loop"],
)
def test_hostile_schemas_are_refused(schema, words, byte_grammars):
    text = json_grammar(schema, is_strict=True)
    with pytest.raises(GrammarError, match=words) as error:
        byte_grammars.compile(text, {"field": text})
    assert error.value.field == "field"
    assert "\n" not in str(error.value)
    assert "llguidance" not in str(error.value)


def walk(constraint, most: int) -> int:
    """Accept tokens that are allowed, not the end if there are others; how many."""
    rng = random.Random(0)
    num_steps = 0
    while num_steps < most and not constraint.is_over:
        ids = allowed(constraint)
        constraint.accept(rng.choice(ids[1:] or ids))
        num_steps += 1
    return num_steps


def test_what_gets_too_complex_ends_its_answer_alone(byte_grammars):
    text = json_grammar({"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"}, is_strict=True)
    constraint = byte_grammars.compile(text, {}).new()
    with pytest.raises(GrammarError, match="the schema is too complex: ") as error:
        walk(constraint, 200)
    assert "aaa" not in str(error.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 10**6},
        {"type": "array", "items": {}, "minItems": 10**6},
        {"type": "object", "properties": {f"k{i}": {} for i in range(1000)}},
    ],
    ids=["long text", "long list", "many names"],
)
def test_large_schemas_take_bounded_steps(schema, byte_grammars):
    text = json_grammar(schema, is_strict=True)
    constraint = byte_grammars.compile(text, {}).new()
    start_s = time.process_time()
    num_steps = walk(constraint, 50)
    assert (time.process_time() - start_s) / num_steps < 0.1


def test_all_schemas_together_are_bounded(byte_grammars):
    with pytest.raises(GrammarError, match="all schemas together") as error:
        byte_grammars.compile(" " * (1 << 18) + "x", {"a": "", "b": ""})
    assert error.value.field == "a"


def test_a_model_without_an_end_is_told(byte_grammars):
    grammars = Grammars(replace(byte_grammars._vocabulary, eos_ids=frozenset()))
    with pytest.raises(GrammarError, match="no end-of-text token"):
        grammars.compile(json_grammar(CITY, is_strict=True), {})


def test_a_trial_that_was_killed_begins_again(byte_grammars, monkeypatch):
    from wrinklefree_inference.native import grammar

    byte_grammars.compile(json_grammar({"const": "first"}, True), {})
    grammar._TRIAL._worker.kill()
    grammar._TRIAL._worker.wait()
    byte_grammars.compile(json_grammar({"const": "second"}, True), {})


def test_neither_torch_nor_transformers_is_imported():
    code = (
        "import sys; from wrinklefree_inference.native.grammar import Grammars, Vocabulary;"
        "tokens, ids = [bytes([i]) for i in range(256)] + [b''], frozenset({256});"
        "g = Grammars(Vocabulary(tokens, ids, ids, lambda text: list(text.encode())));"
        "g.compile('%llguidance {}\\nstart: %json {}', {}).new();"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_engine_holds_to_it(toy):
    """A random little model with too few pages: answers of one form, each with its seed's words."""
    import asyncio

    from wrinklefree_inference.native.async_engine import AsyncNativeEngine
    from wrinklefree_inference.options import QueueOptions

    class LetterTokenizer(toy.ToyTokenizer):
        def vocabulary(self, num_rows):
            from wrinklefree_inference.native.grammar import Vocabulary

            tokens = [b"", *toy.TOKEN_BYTES[1:num_rows]]
            ids = {token: index for index, token in reversed(list(enumerate(tokens)))}
            return Vocabulary(
                tokens, frozenset({0}), frozenset({0}), lambda text: [ids[c.encode()] for c in text]
            )

    async def one(engine, grammar, seed):
        request = replace(toy.make_request([9, 10] * 30, seed=seed, max_tokens=60), constraint=grammar.new())
        return [delta async for delta in toy.submit(engine, request)]

    async def main():
        model = replace(toy.make_model(6), tokenizer=LetterTokenizer())
        engine = AsyncNativeEngine(model, QueueOptions(max_running=4))
        grammar = engine.compile("%llguidance {}\nstart: /a[a-f]{30,50}z/", {})
        answers = await asyncio.gather(*(one(engine, grammar, seed) for seed in range(12)))
        again = await one(engine, grammar, 3)
        stats = engine.stats()
        await engine.close()
        return answers, again, stats

    answers, again, stats = asyncio.run(main())
    texts = ["".join(delta.text for delta in deltas) for deltas in answers]
    assert all(text[0] == "a" and text[-1] == "z" and set(text[1:-1]) <= set("abcdef") for text in texts)
    assert len(set(texts)) == 12
    assert all(deltas[-1].finish_reason == "stop" for deltas in answers)
    assert "".join(delta.text for delta in again) == texts[3]
    assert stats.preemptions_total > 0
