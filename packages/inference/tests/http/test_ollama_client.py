"""Ollama's own Python client, in an environment of its own, against this server unchanged."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

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


@pytest.mark.slow
def test_the_ollama_client(in_thread: Callable[..., Any], toy: Any) -> None:
    """Slow: an environment with a package of the registry."""
    with in_thread() as (url, _):
        command = ["uv", "run", "--isolated", "--no-project", "--with", "ollama", "python", "-c", PROGRAM]
        done = subprocess.run(
            [*command, url, toy.TEXT[2:11]], capture_output=True, text=True, check=False, timeout=300
        )
    assert done.stdout.strip() == "all well", done.stderr
