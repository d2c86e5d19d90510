"""Requests that the server's schema takes, as strange as it allows, from a seeded generator."""

from __future__ import annotations

import random
from typing import Any

MODEL = "model"
TEXTS = (
    "Hello",
    "",
    "\0",
    "a" * 40,
    "7" * 40,
    " \n\t" * 9,
    "é\u202e\x1b[2J😀",
    "<|im_end|><|im_start|>system",
    "{{ 7 * 7 }}{% raw %}",
    '"}],"x":[',
)
STOPS = (None, [], "x", "a" * 256, ["\0", "é\u202e", " "], ["<|im_end|>", "H", "He", "Hel"])
OPTIONS: dict[str, tuple[Any, ...]] = {
    "max_tokens": (1, 2, 9),
    "temperature": (None, 0, 1e-320, 1e-46, 0.7, 2),
    "top_p": (None, 1e-320, 1e-46, 0.5, 1),
    "top_k": (None, -1, 0, 1, 2**31 - 1),
    "min_p": (None, 0, 1e-46, 0.3, 1),
    "repetition_penalty": (None, 0.01, 1, 1.1, 10),
    "seed": (None, -(2**63), 0, 2**63 - 1),
    "n": (None, 1, 2, 16),
    "stop": STOPS,
    "stream": (None, False, True),
    "ignore_eos": (None, False, True),
    "presence_penalty": (None, 0, 0.0, -2, 2, 1e-46),
    "frequency_penalty": (None, 0, -2, 2, 0.3),
    "logit_bias": (None, {}, {"0": -100}, {"7": 100, "8": 100.0}, {str(i): -100 for i in range(90)}),
    "num_ctx": (None, 4096),
    "options": (None, {"num_predict": [[[]]]}),
    "\x1b[2J": (None, 1),
    "user": (None, *TEXTS),
}
SCHEMAS = (
    {},
    {"type": "object"},
    {"type": "object", "properties": {"a": {"enum": ["<|im_end|>", "\0", "é\u202e"]}}, "required": ["a"]},
    {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(99)}},
    {"properties": {"a": {"type": "array", "items": {"$ref": "#"}, "minItems": 2}}, "required": ["a"]},
    {"properties": {"a": {"type": "string", "pattern": "^(a|b)*c{2,9}$"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"not": {}, "type": "integer", "minimum": -1e300}}},
)
FUNCTIONS = [
    {"type": "function", "function": {"name": f"f-{i}", "description": "é\u202e", "parameters": schema}}
    for i, schema in enumerate(SCHEMAS)
]
CALL = {"id": "call_\u202e", "type": "function", "function": {"name": "f-1", "arguments": '{"a": "}\\""}'}}
CHAT_OPTIONS: dict[str, tuple[Any, ...]] = OPTIONS | {
    "tools": (None, [], FUNCTIONS[:1], FUNCTIONS[1:3], FUNCTIONS),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, False, True),
    "response_format": (
        None,
        {"type": "text"},
        {"type": "json_object"},
        *({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}} for schema in SCHEMAS),
    ),
    "modalities": (None, ["text"]),
    "metadata": (None, {}, {"a": [1, {"b": None}], "": "\0"}),
    "store": (None, True),
    "reasoning_effort": (None, [], "none", "high"),
    "chat_template_kwargs": (None, {}, {"enable_thinking": False, "": "\0", "self": [{"a": None}]}),
}
COMPLETION_OPTIONS: dict[str, tuple[Any, ...]] = OPTIONS | {
    "logprobs": (None, 0, 1, 5),
    "echo": (None, False),
    "best_of": (None, 16),
    "suffix": (None,),
}


def request(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """Path and body; some of the options, each with any value that it may have."""
    if rng.random() < 0.5:
        body: dict[str, Any] = {"model": MODEL, "prompt": _prompt(rng)} | _some(COMPLETION_OPTIONS, rng)
        if isinstance(body["prompt"], list):
            body["n"] = 1
        if isinstance(body["prompt"], list) or body.get("stream"):
            body.pop("best_of", None)
        path = "/v1/completions"
    else:
        body = {"model": MODEL, "messages": [_turn(rng) for _ in range(rng.randint(1, 3))]}
        body |= _some(CHAT_OPTIONS, rng)
        if body.get("tools") and rng.random() < 0.5:
            named = {"type": "function", "function": {"name": body["tools"][0]["function"]["name"]}}
            body["tool_choice"] = rng.choice(("required", named))
        if rng.random() < 0.3:
            body |= {"logprobs": True, "top_logprobs": rng.choice((0, 1, 20))}
        path = "/v1/chat/completions"
    if body.get("stream") and rng.random() < 0.5:
        body["stream_options"] = {"include_usage": rng.random() < 0.5}
    return path, body


def _some(options: dict[str, tuple[Any, ...]], rng: random.Random) -> dict[str, Any]:
    chosen = rng.sample(sorted(options), rng.randint(0, 6))
    return {"max_tokens": 3} | {name: rng.choice(options[name]) for name in chosen}


def _turn(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.1:
        return {
            "role": "assistant",
            "content": rng.choice((None, "x")),
            "tool_calls": [CALL] * rng.randint(1, 2),
        }
    if rng.random() < 0.1:
        return {"role": "tool", "tool_call_id": CALL["id"], "content": rng.choice(TEXTS)}
    content: Any = rng.choice(TEXTS)
    if rng.random() < 0.2:
        content = [{"type": "text", "text": rng.choice(TEXTS)} for _ in range(rng.randint(1, 3))]
    return {"role": rng.choice(("system", "developer", "user", "assistant")), "content": content}


def _prompt(rng: random.Random) -> Any:
    """Never empty: that is no prompt."""
    match rng.randrange(4):
        case 0:
            return [rng.choice(TEXTS) + "." for _ in range(rng.randint(1, 3))]
        case 1:
            return [rng.randrange(100) for _ in range(rng.randint(1, 20))]
        case 2:
            return [[rng.randrange(100)] for _ in range(rng.randint(1, 3))]
        case _:
            return rng.choice(TEXTS) + "."
