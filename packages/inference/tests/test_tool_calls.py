"""Tools in the chat templates of real families, and schemas of their arguments."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from pathlib import Path

import pytest

from wf_formats.chat_template import ChatTemplate, TemplateTooCostlyError, TemplateUnfitError
from wf_formats.errors import RequestError
from wrinklefree_inference.tool_calls.forms import HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, MISTRAL_NEMO
from wrinklefree_inference.tool_calls.history import for_template
from wrinklefree_inference.tool_calls.schema_values import MAX_NUMBER, check_values, without_idle_bounds
from wrinklefree_inference.tool_calls.schemas import check_bounds, closed, of_arguments
from wrinklefree_inference.tool_calls.template import TemplateTools

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
ONE_CALL = "{% for c in m.tool_calls %}CALL{% endfor %}"
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}},
}
SPACED = (
    "{%- if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}"
    "{%- for m in messages -%}"
    "{%- if m.tool_calls is defined -%}[TOOL_CALLS] ["
    "{%- for c in m.tool_calls -%}"
    "{%- if c.id | length != 9 -%}{{- raise_exception('an id has nine characters') -}}{%- endif -%}"
    '{{- (c.function | tojson)[:-1] -}}, "id": "{{- c.id -}}"}{%- if not loop.last -%}, {% endif -%}'
    "{%- endfor -%}]{%- elif m.role == 'tool' -%}"
    "{%- if m.tool_call_id | length != 9 -%}{{- raise_exception('an id has nine characters') -}}{%- endif -%}"
    "[TOOL_RESULTS] {{- m.content -}}{%- elif m.role in ('user', 'assistant') -%}{{- m.content -}}"
    "{%- else -%}{{- raise_exception('no such role') -}}{%- endif -%}{%- endfor -%}"
)
ARGS = SPACED.replace("[TOOL_CALLS] [", "").replace(
    '{{- (c.function | tojson)[:-1] -}}, "id": "{{- c.id -}}"}{%- if not loop.last -%}, {% endif -%}',
    "[TOOL_CALLS]{{- c.function.name -}}[ARGS]{{- c.function.arguments | tojson -}}",
)
XML = (
    "{%- if xml_tools -%}{%- for t in xml_tools[:] -%}{{- t.name -}}{%- endfor -%}{%- endif -%}"
    "{%- for m in messages -%}{{- '<' + m.role + '>' + m.content -}}{%- endfor -%}"
)


def of_library(name: str) -> str:
    """A family's own template, from a library that ships them."""
    found = importlib.util.find_spec("trl")
    return (Path(found.origin).parent / "chat_templates" / f"{name}.jinja").read_text()


def tried(source: str) -> tuple[TemplateTools, ChatTemplate]:
    template = ChatTemplate(source, TOKENS)

    def render(messages, variables):
        try:
            return template.render(messages, True, tools=variables)
        except TemplateUnfitError:
            return None

    return TemplateTools.of(render), template


def history(call_id: str = "call_1") -> list[dict]:
    call = {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    return [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "rain"},
        {"role": "user", "content": "And now?"},
    ]


@pytest.mark.parametrize(
    ("name", "form", "variable", "shows_calls"),
    [
        ("llama3", HERMES, None, False),
        ("llama3_1", LLAMA, "tools", True),
        ("llama3_2", LLAMA, "tools", True),
        ("qwen2_5", HERMES, "tools", True),
        ("qwen3", HERMES, "tools", True),
        ("phi3", HERMES, None, False),
        ("gemma", HERMES, None, False),
        ("gemma3", HERMES, None, False),
    ],
)
def test_families(name, form, variable, shows_calls):
    tools, template = tried(of_library(name))
    assert (tools.form, tools.variable) == (form, variable)
    assert (tools.shows_calls, tools.shows_results) == (shows_calls, shows_calls)
    turns, variables = for_template(history(), [WEATHER], tools)
    text = template.render(turns, True, tools=variables)
    call = form.written("weather", json.dumps({"city": "Bern"}))
    assert text.index('"name": "weather"') < text.index(call) < text.index("rain") < text.index("And now?")
    assert [turn["role"] for turn in turns if turn["role"] != "system"][:2] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("source", "form"),
    [(SPACED, MISTRAL), (SPACED.replace("CALLS] [", "CALLS]["), MISTRAL_NEMO), (ARGS, MISTRAL_ARGS)],
    ids=["spaced", "unspaced", "args"],
)
@pytest.mark.parametrize("call_id", ["abcdef123", "call_of_another_server"])
def test_mistral_s_ids_have_nine_characters(source, form, call_id):
    tools, template = tried(source)
    assert tools.form == form
    turns, variables = for_template(history(call_id), [WEATHER], tools)
    assert "rain" in template.render(turns, True, tools=variables)
    ids = {turns[1]["tool_calls"][0]["id"], turns[2]["tool_call_id"]}
    assert ids == {call_id} if call_id.isalnum() else len(ids) == 1


CUT = '{"city": "Be'
OBJECTS_ALONE = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{% for key, value in c.function.arguments.items() %}{{ key }}{% endfor %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    "source", ["llama3_1", "llama3_2", "qwen2_5", "qwen3", "gemma3", SPACED, ARGS, XML, TURNS, OBJECTS_ALONE]
)
def test_a_call_that_was_cut_short_is_shown_as_text_or_refused_by_name(source):
    """What a template cannot show is told before it fails on it."""
    tools, template = tried(source if "{" in source else of_library(source))
    turns = history("abcdefghi")
    turns[1]["tool_calls"][0]["function"]["arguments"] = CUT
    if source == OBJECTS_ALONE:
        assert "cityrain" in template.render(history())
        with pytest.raises(
            RequestError, match=r"the call 'abcdefghi' \(weather\) are no whole .*leave the call"
        ):
            for_template(turns, [WEATHER], tools)
        return
    shown, variables = for_template(turns, [WEATHER], tools)
    text = template.render(shown, True, tools=variables)
    assert CUT in text or json.dumps(CUT) in text
    assert text.index("Be") < text.index("rain")


def test_a_template_with_a_variable_of_its_own():
    """SmolLM3's shows functions, neither calls nor results."""
    tools, template = tried(XML)
    assert (tools.variable, tools.shows_calls) == ("xml_tools", False)
    turns, variables = for_template(history(), [WEATHER], tools)
    assert variables == {"xml_tools": [WEATHER["function"]]}
    text = template.render(turns, True, tools=variables)
    assert text.startswith("weather<user>Hi<assistant><tool_call>\n")
    assert text.endswith("<user><tool_response>\nrain\n</tool_response>\nAnd now?")


def test_a_template_that_knows_nothing_gets_ordinary_turns():
    tools, template = tried(TURNS)
    assert tools.takes_system
    turns, variables = for_template(
        [{"role": "system", "content": "Be brief."}, *history()], [WEATHER], tools
    )
    assert variables == {}
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[0]["content"].startswith("Be brief.\n\nYou may call")
    assert all(turn.keys() == {"role", "content"} for turn in turns)
    assert '"name": "weather"' in template.render(turns)
    words = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So:"}]
    words[1]["tool_calls"] = history()[1]["tool_calls"] * 2
    assert for_template(words, [], tools)[0][1]["content"].startswith("So:\n<tool_call>\n")
    assert for_template(words, [], tools)[0][1]["content"].count("<tool_call>") == 2


def test_a_template_without_system_messages():
    refused = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TURNS
    tools, _ = tried(refused)
    assert not tools.takes_system
    turns, _ = for_template(history(), [WEATHER], tools)
    assert turns[0]["role"] == "user"
    assert turns[0]["content"].startswith("You may call")
    assert turns[0]["content"].endswith("\n\nHi")


def test_a_template_beyond_its_limits_is_not_taken_for_one_without_tools():
    with pytest.raises(TemplateTooCostlyError):
        tried("{% if tools %}{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}{% endif %}" + TURNS)


def test_results_have_the_name_of_what_was_called():
    tools, _ = tried(of_library("qwen3"))
    turns, _ = for_template(history(), [], tools)
    assert turns[2]["name"] == "weather"


def test_objects_have_their_listed_properties_alone():
    person = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}
    both = closed({"$defs": {"p": person}, "anyOf": [{"items": person}, {"$ref": "#/$defs/p"}]})
    assert json.dumps(both).count('"additionalProperties": false') == 4
    for open_one in (
        {"properties": {"a": {}}, "additionalProperties": True},
        {"properties": {"a": {}}, "patternProperties": {"x": {}}},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"type": "object"},
        {"enum": [{"properties": {"a": 1}}]},
        {"properties": {"properties": {"type": "string"}}, "additionalProperties": {"type": "integer"}},
    ):
        assert closed(open_one) == open_one


def test_arguments_are_an_object():
    none = {"type": "object", "properties": {}, "additionalProperties": False}
    assert of_arguments(None) == of_arguments({}) == none
    assert of_arguments({"properties": {"a": {}}})["type"] == "object"
    for kind in ("array", ["object", "null"], None):
        with pytest.raises(ValueError, match='"type" must be "object"'):
            of_arguments({"type": kind})


def test_bounds():
    deep = {"type": "integer"}
    for _ in range(47):
        deep = {"items": deep}
    check_bounds(deep)
    with pytest.raises(ValueError, match="more than 48"):
        check_bounds({"items": deep})
    with pytest.raises(ValueError, match="at most 65536"):
        check_bounds({"description": "x" * 65_536})


@pytest.mark.parametrize("key", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"])
@pytest.mark.parametrize("value", [2**53, -(2**53), 10**20, -(10**20), 1e300, float("inf"), float("nan")])
def test_bounds_that_are_not_held_are_named(key, value):
    bound = {"type": "integer", key: value}
    for schema, place in [
        (bound, key),
        ({"properties": {"const": bound}}, f"properties.const.{key}"),
        ({"allOf": [{}, {"items": bound}]}, f"allOf[1].items.{key}"),
        ({"$ref": "#/x/y", "x": {"y": bound}}, f"x.y.{key}"),
    ]:
        words = f"^{re.escape(place)} is {re.escape(repr(value))}: .* -{MAX_NUMBER} to {MAX_NUMBER}$"
        with pytest.raises(ValueError, match=words):
            check_values(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"minimum": -MAX_NUMBER, "maximum": MAX_NUMBER, "multipleOf": 0.5},
        {"properties": {"minimum": {"type": "number"}, "enum": {"default": 10**20}}},
        {"const": {"minimum": 1e20, "pattern": "a**"}},
        {"default": {"minimum": 1e20}, "examples": [{"pattern": "a**"}]},
        {"exclusiveMinimum": True, "maxLength": 2**63 - 1},
    ],
)
def test_what_is_held_is_taken(schema):
    check_values(schema)


def test_integers_that_are_not_held_are_no_answers():
    for schema, place in [
        ({"const": 2**53 + 1}, "const"),
        ({"properties": {"a": {"enum": [1, {"b": [-(10**20)]}]}}}, "properties.a.enum"),
    ]:
        with pytest.raises(ValueError, match=f"^{place} is -?[0-9]+: answers are held to numbers"):
            check_values(schema)


@pytest.mark.parametrize(
    "pattern", ["^(a|a)*(b|b)*{1000}$", "a**", "a+*", "a?{3}", "a*?{3}", "a???", "a{2,}{3}", r"\\**"]
)
def test_a_repeated_repetition_is_named(pattern):
    for schema in ({"pattern": pattern}, {"patternProperties": {pattern: {}}}):
        with pytest.raises(ValueError, match="in a pattern, which repeats a repetition"):
            check_values(schema)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?:a*){3}",
        "(?i)a*?",
        "a??",
        r"a\\*\*{3}",
        "[*+]{3}",
        "[]*+]?",
        r"[\]*+]*",
        "a{1,2}?",
        "{}*",
        r"\p{L}+",
    ],
)
def test_patterns_that_are_taken(pattern):
    check_values({"pattern": pattern, "patternProperties": {pattern: {}}})


@pytest.mark.parametrize("part", ["[", "\\", "a*", "{1", "{", "1", "(?"])
def test_patterns_are_read_in_linear_time(part):
    """Of quadratic time, `[` alone takes minutes."""
    start_s = time.process_time()
    check_values({"pattern": part * (60_000 // len(part))})
    assert time.process_time() - start_s < 2


@pytest.mark.parametrize("schema", [{"const": "\ud800"}, {"properties": {"a\ud800": {}}}])
def test_half_a_surrogate_pair_is_named(schema):
    with pytest.raises(ValueError, match=r"half a surrogate pair, \\ud800, "):
        check_values(schema)


def test_bounds_of_floats_beyond_integers_are_limits():
    assert without_idle_bounds({"type": "number", "maximum": 1e19})[1] == []
    assert without_idle_bounds({"type": "number", "maximum": sys.float_info.max})[1] == ["maximum"]
