"""Damaged and hostile requests to a real server: it answers each in time, and its other clients always.

At least half of them are what the schema takes, so that what comes after it is tried too.

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
import valid_requests
from fuzz_limits import CASES, GROWTH_BYTES, HANG_SECONDS, SEED

ORDINARY = {"model": "model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def server(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = [sys.executable, "-m", "wrinklefree_inference", "serve", "--port", "0"]
    model = str(samples / "gguf" / "model.gguf")
    log = tmp_path_factory.mktemp("log") / "server.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*command, "--model", model], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        line = process.stdout.readline()
        address = line.split(" at http://")[1].split("/")[0]
        yield Server(process, int(address.split(":")[1]), log)
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
    assert _ordinary(server.port) == 200
    assert not {"500", "503"} & set(counts), counts
    assert counts["200"] >= counts.total() / 2, counts
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "unexpected error" not in log
    assert server.resident_bytes - before < GROWTH_BYTES


def _request(rng: random.Random) -> bytes:
    """One that the schema takes; or with one value changed; or damaged as JSON, as bytes or in its head."""
    path, body = valid_requests.request(rng)
    kind = rng.random()
    if kind < 0.3:
        body = mutate.one_value_of(body, rng)
    content = json.dumps(body).encode()
    if kind > 0.85:
        content = mutate.json_of(content, rng)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    ).encode()
    if kind > 0.95:
        head = mutate.bytes_of(head, rng)
    return head + content


def _send(port: int, request: bytes, rng: random.Random) -> str:
    """The answer's status; "closed" where there is none, "waiting" for more of the request."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as connection:
        try:
            connection.sendall(request)
            if rng.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
            answer = _read(connection, leaves=rng.random() < 0.2)
        except TimeoutError:
            return "waiting"
        except OSError:
            return "closed"
    return answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/1.") else "closed"


def _read(connection: socket.socket, leaves: bool) -> bytes:
    """The answer; of one that leaves what comes first."""
    answer = b""
    while piece := connection.recv(65536):
        answer = (answer + piece).removeprefix(_CONTINUE)
        if leaves and answer:
            break
    return answer


def _ordinary(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(ORDINARY), headers)
        return connection.getresponse().status
    finally:
        connection.close()
