"""Ollama's own Python client, in an environment of its own, against this server unchanged."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from wrinklefree_inference.tool_calls.forms import HERMES

PROGRAM = """
import sys
import ollama

client = ollama.Client(sys.argv[1])
name = client.list().models[0].model
assert name == "org/toy:latest", name
assert client.ps().models[0].model == name
assert client.show(name).modelinfo["wrinklefree.context_length"] == 512
options = {"num_predict": 9, "seed": 2}
ask = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "options": options}
whole = client.chat(**ask)
assert whole.message.content == sys.argv[2], whole
assert (whole.done_reason, whole.eval_count, whole.prompt_eval_count) == ("length", 9, len("user:Hi\\n"))
parts = list(client.chat(**ask, stream=True))
assert "".join(part.message.content for part in parts) == whole.message.content
assert parts[-1].done and parts[-1].eval_duration > 0 and parts[-1].total_duration > 0
written = client.generate(name, "Hi", options=options, keep_alive="5m")
parts = client.generate(name, "Hi", options=options, stream=True)
assert written.response == "".join(part.response for part in parts) == whole.message.content
found = client.embed(name, ["ab", "c"])
assert [len(vector) for vector in found.embeddings] == [4, 4], found
for broken, words in (
    (lambda: client.chat(model="llama3", messages=ask["messages"]), "'llama3' is not served here"),
    (lambda: client.chat(**ask | {"options": {"temperature": 9}}), "options.temperature"),
    (lambda: list(client.generate(name, "crash", stream=True)), "the decoder failed"),
):
    try:
        broken()
    except ollama.ResponseError as error:
        assert words in error.error, error
    else:
        raise AssertionError(words)
print("all well")
"""

TOOLS = """
import sys
import ollama

client = ollama.Client(sys.argv[1])
name = "org/toy"
tool = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def time(zone: str) -> str:
    '''The time of a zone.

    Args:
        zone: Its name
    '''
    return "noon"


asked = [{"role": "user", "content": "call weather"}]
for is_stream in (False, True):
    answer = client.chat(name, asked, tools=[tool, time], stream=is_stream)
    parts = list(answer) if is_stream else [answer]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [call.function.name for call in calls] == ["weather"], parts
    assert calls[0].function.arguments == {"city": "Berlin"}, parts
    assert parts[-1].done_reason == "stop", parts
said = client.chat(name, asked, tools=[tool]).message
result = {"role": "tool", "tool_name": "weather", "content": "rain"}
after = client.chat(name, [*asked, said, result], options={"num_predict": 3})
assert after.eval_count == 3, after
alone = client.chat(name, [*asked, result], options={"num_predict": 3})  # ids are not needed here
assert alone.eval_count == 3, alone
print("all well")
"""


@pytest.mark.slow
def test_the_ollama_client(in_thread: Callable[..., Any], toy: Any) -> None:
    """Slow: an environment with a package of the registry."""
    with in_thread() as (url, _):
        run(PROGRAM, url, toy.TEXT[2:11])


@pytest.mark.slow
def test_tools_of_the_ollama_client(in_thread: Callable[..., Any]) -> None:
    """Functions as schema and as Python has them, calls sent back, a result without its call."""
    with in_thread() as (url, engine):
        engine.script = HERMES.written("weather", '{"city": "Berlin"}')
        run(TOOLS, url)


def run(program: str, *arguments: str) -> None:
    command = ["uv", "run", "--isolated", "--no-project", "--with", "ollama", "python", "-c", program]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == "all well", done.stderr
