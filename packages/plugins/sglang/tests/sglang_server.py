"""A stock SGLang with the plug-in, in the environment that $WF_SGLANG names."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from wf_formats.lifeline import end_with

START_S = 900


class Server:
    """Requests to a running server.

    Args:
        url: of it.
    """

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=300, trust_env=False)

    def generate(self, ids: list[list[int]], num_tokens: int) -> list[dict[str, Any]]:
        """Greedy answers to prompts as token ids, with log-probabilities of prompts and answers."""
        answer = self.client.post("/generate", json=_body(ids, num_tokens) | {"logprob_start_len": 0})
        answer.raise_for_status()
        return answer.json()

    def stream(self, ids: list[int], num_tokens: int) -> list[int]:
        """The tokens of a streamed answer."""
        pieces = []
        with self.client.stream(
            "POST", "/generate", json=_body(ids, num_tokens) | {"stream": True}
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    pieces.append(json.loads(line.removeprefix("data: ")))
        assert len(pieces) > 1, "it came in one piece"
        return [token for _, token, _ in pieces[-1]["meta_info"]["output_token_logprobs"]]


def _body(ids: Any, num_tokens: int) -> dict[str, Any]:
    sampling = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    return {"input_ids": ids, "sampling_params": sampling, "return_logprob": True}


def command(folder: Path, port: int, *more: str) -> list[str]:
    """Every other option is the plug-in's default."""
    python = str(Path(os.environ["WF_SGLANG"]) / "bin" / "python")
    arguments = ["--model-path", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    quiet = ["--log-level", "warning", "--skip-server-warmup"]
    return [python, "-W", "ignore", "-m", "sglang.launch_server", *arguments, *quiet, *more]


@contextmanager
def running(folder: Path, log: Path) -> Iterator[Server]:
    """A server on 127.0.0.1, until the block is left; it ends with this process, however that ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parent = os.getpid()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(folder, port),
            stdout=output,
            stderr=output,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            preexec_fn=lambda: end_with(parent),
            start_new_session=True,  # a group of its own: SGLang computes in further processes
        )
    server = Server(f"http://127.0.0.1:{port}")
    try:
        _wait(server, process, log)
        yield server
    finally:
        server.client.close()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            if server.client.get("/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    sys.stderr.write(log.read_text()[-4000:])
    raise AssertionError(f"the server did not start within {START_S} s")
