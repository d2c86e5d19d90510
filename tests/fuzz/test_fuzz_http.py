"""Damaged and hostile requests to a real server: it answers each in time, and its other clients always.

uv run pytest tests/fuzz -m slow
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mutate
import pytest
from fuzz_limits import CASES, GROWTH_BYTES, HANG_SECONDS, SEED

CHAT = {
    "model": "model",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 4,
    "temperature": 0.7,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
    "presence_penalty": 0,
    "logit_bias": {},
    "stop": ["x"],
    "seed": 1,
    "n": 1,
    "logprobs": True,
    "top_logprobs": 2,
    "stream": False,
}
COMPLETION = {"model": "model", "prompt": "Hello", "max_tokens": 4, "logprobs": 1, "echo": False}
REQUESTS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION}


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int

    @property
    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def server(samples: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "wrinklefree_inference", "serve", "--port", "0"]
    model = str(samples / "gguf" / "model.gguf")
    with subprocess.Popen(
        [*command, "--model", model], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        line = process.stdout.readline()
        address = line.split(" at http://")[1].split("/")[0]
        yield Server(process, int(address.split(":")[1]))
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_hostile_requests_are_answered_and_others_served(server: Server) -> None:
    counts: Counter[str] = Counter()
    before = server.resident_bytes
    for number in range(4 * CASES):
        rng = random.Random(f"http {SEED} {number}")
        start = time.monotonic()
        counts[_send(server.port, _request(rng), rng)] += 1
        seconds = time.monotonic() - start
        assert seconds < HANG_SECONDS + 5, f"seed {SEED}, request {number}: {seconds:.1f} s"
        assert server.process.poll() is None, f"seed {SEED}, request {number}: the server ended"
        if number % 20 == 0:
            assert _ordinary(server.port) == 200, f"seed {SEED}, request {number}: others are not served"
    print(f"HTTP: {dict(counts)}")  # noqa: T201  # the counts are the result
    assert not {"500", "503"} & set(counts), counts
    assert server.resident_bytes - before < GROWTH_BYTES


def _request(rng: random.Random) -> bytes:
    """A request whose body is damaged as JSON, as bytes, or whose head is."""
    path = rng.choice(list(REQUESTS))
    body = mutate.json_of(json.dumps(REQUESTS[path]).encode(), rng)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    if rng.random() < 0.15:
        head = mutate.bytes_of(head, rng)
    return head + body


def _send(port: int, request: bytes, rng: random.Random) -> str:
    """The answer's status; "closed" where there is none, "waiting" for more of the request."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as connection:
        try:
            connection.sendall(request)
            if rng.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(64)
        except TimeoutError:
            return "waiting"
        except OSError:
            return "closed"
    return answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/1.") else "closed"


def _ordinary(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), headers)
        return connection.getresponse().status
    finally:
        connection.close()
