"""Speed and sample answers of a GGUF file, through the server that `wf serve --engine llamacpp` starts.

llama.cpp's server reports the timing of each request itself (`timings`), so what is measured is the
model without HTTP. The prompt cache is off; the end-of-text token is ignored where speed is measured.
"""

from __future__ import annotations

import json
import re
import secrets
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wf_deployer.errors import CommandError
from wf_deployer.workspace import module_command
from wf_quickstart.children import Child, failure, started

PROMPTS = (
    "Why is the sky blue?",
    "What does the return statement do in Python?",
    "Write one sentence about the sea.",
)
ANSWER_TOKENS = 48
_PROMPT_CHARS = 2000
_GENERATED_TOKENS = 64
_REPEATS = 3
_START_TIMEOUT_S = 120
_REQUEST_TIMEOUT_S = 300


@dataclass(frozen=True)
class Server:
    url: str
    api_key: str

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"},
        )
        with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


@contextmanager
def serving(title: str, gguf: Path, log: Path) -> Iterator[Server]:
    """A server on a free loopback port, guarded by a random key.

    Raises:
        CommandError: it did not start.
    """
    key = secrets.token_urlsafe(16)
    command = [
        *module_command("wrinklefree_inference"),
        "serve",
        "--engine",
        "llamacpp",
        "--model",
        str(gguf),
    ]
    child = Child(
        title, [*command, "--port", "0", "--context", "2048", "--parallel", "1"], log, {"WF_API_KEY": key}
    )
    with started(child) as process:
        yield Server(_address(child, process), key)


def _address(child: Child, process: subprocess.Popen[bytes]) -> str:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None:
        if match := re.search(r" at (http://\S+)/v1", child.log.read_text(errors="replace")):
            return match[1]
        if time.monotonic() > deadline_s:
            raise CommandError(
                f"{child.title}: the server said nothing for {_START_TIMEOUT_S} s; see {child.log}"
            )
        time.sleep(0.1)
    raise failure(child, process.returncode)


def try_model(server: Server, text: str, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Median speeds of `_REPEATS` requests (tokens per second), and greedy answers to PROMPTS."""
    total = _REPEATS + len(PROMPTS)
    timings = []
    for index in range(_REPEATS):
        on_progress(index, total)
        timings.append(_timed(server, text))
    answers = []
    for index, prompt in enumerate(PROMPTS):
        on_progress(_REPEATS + index, total)
        answers.append({"prompt": prompt, "answer": _answer(server, prompt)})
    on_progress(total, total)
    return {
        "prompt_tokens": timings[0]["prompt_n"],
        "generated_tokens": timings[0]["predicted_n"],
        "prompt_tokens_per_s": statistics.median(t["prompt_per_second"] for t in timings),
        "generation_tokens_per_s": statistics.median(t["predicted_per_second"] for t in timings),
        "answers": answers,
    }


def _timed(server: Server, text: str) -> dict[str, float]:
    body = {
        "prompt": text[:_PROMPT_CHARS],
        "max_tokens": _GENERATED_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    timings: dict[str, float] = server.post("/v1/completions", body)["timings"]
    return timings


def _answer(server: Server, prompt: str) -> str:
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
    }
    message = server.post("/v1/chat/completions", body)["choices"][0]["message"]
    return str(message["content"]).strip()
