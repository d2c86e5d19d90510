"""The real thing: smg from uv's cache or the registry, `wf serve` as workers, `kill -9` under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from processes import is_running
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.slow
KEY = "key-of-a-client"
CHAT = "/v1/chat/completions"
NUM_WORKERS = 4


class Running:
    """A gateway and what it has started."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.client = httpx.Client(
            base_url=url.removesuffix("/v1"), headers={"Authorization": f"Bearer {KEY}"}, timeout=120
        )

    def ask(self, messages: list[dict[str, str]], **body: object) -> dict[str, object]:
        answer = self.client.post(CHAT, json={"model": "two-layers", "messages": messages, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def workers_up(self) -> int:
        return self.client.get("/health").json()["workers"]["up"]

    def answers_by_worker(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == "wf_http_requests_total" and sample.labels["endpoint"] == CHAT:
                    found[sample.labels.get("worker", "")] += round(sample.value)
        found.pop("", None)
        return found

    def descendants(self) -> list[int]:
        """Process ids below the gateway."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, task.read_text().split())
        return found[1:]

    def worker_pids(self) -> list[int]:
        return [pid for pid in self.descendants() if "worker_program" in command_line(pid)]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def until(is_true: Callable[[], bool], limit_s: float = 90) -> float:
    """How long it took."""
    started_s = time.monotonic()
    while not is_true():
        assert time.monotonic() - started_s < limit_s
        time.sleep(0.1)
    return time.monotonic() - started_s


@contextmanager
def started(log: Path, *options: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "wrinklefree_inference", "gateway", "--port", "0", *options]
    environment = os.environ | {"WF_API_KEY": KEY, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            assert " at http" in line, log.read_text()
            running = Running(process, line.split(" at ")[1].split(" ")[0])
            with running.client:
                yield running
        finally:
            process.kill()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway") / "log"


@pytest.fixture(scope="module")
def gateway(ternary_gguf: Path, log: Path) -> Iterator[Running]:
    options = ["--model", str(ternary_gguf), "--workers", str(NUM_WORKERS), "--threads", "1"]
    with started(log, *options, "--context", "2048") as running:
        yield running


def test_conversations_stay_with_their_worker_and_are_spread(gateway: Running) -> None:
    def converse(number: int) -> list[tuple[int, int]]:
        """Prompt tokens and those found in the cache, of each turn."""
        messages = [{"role": "system", "content": f"You are helper {number}. " * 12}]
        counts = []
        for turn in range(4):
            messages.append({"role": "user", "content": f"Question {turn} of {number}: " + "why? " * 8})
            answer = gateway.ask(messages, max_tokens=8)
            usage = answer["usage"]
            counts.append((usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]))
            messages.append(answer["choices"][0]["message"] | {"content": "Because. " * 8})
        return counts

    before = gateway.answers_by_worker()
    with ThreadPoolExecutor(8) as pool:
        conversations = list(pool.map(converse, range(8)))
    answers = gateway.answers_by_worker() - before
    later = [turn for counts in conversations for turn in counts[1:]]
    cached = sum(found for _, found in later) / sum(total for total, _ in later)
    sys.stdout.write(f"cached {cached:.2f} of later prompts, by worker {sorted(answers.values())}\n")
    assert answers.total() == 32
    assert len(answers) >= 3
    assert max(answers.values()) <= 20
    assert sum(found > 0 for _, found in later) >= 18  # of 24: one whose worker is busy may move
    assert cached > 0.4


def test_keys_of_clients_and_of_workers(gateway: Running) -> None:
    for path in ("/v1/models", "/metrics"):
        assert httpx.get(gateway.client.base_url.join(path)).status_code == 401
    pids = gateway.descendants()
    worker = gateway.worker_pids()[0]
    environment = dict(
        word.partition("=")[::2] for word in Path(f"/proc/{worker}/environ").read_text().split("\0")
    )
    port = next(word for word in command_line(worker).split() if word.startswith("--port=")).partition("=")[2]
    assert environment["WF_API_KEY"] != KEY
    assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
    refused = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=dict(gateway.client.headers))
    assert refused.status_code == 401
    for pid in pids:
        assert KEY not in command_line(pid)
        assert environment["WF_API_KEY"] not in command_line(pid)


def test_a_worker_that_is_killed_under_load(gateway: Running, log: Path) -> None:
    ends: Counter[str] = Counter()
    is_over = threading.Event()
    asked = {"model": "two-layers", "max_tokens": 300, "ignore_eos": True, "stream": True}

    def stream(number: int) -> None:
        while not is_over.is_set():
            messages = [{"role": "user", "content": f"Tell me story {number}. " * 10}]
            with gateway.client.stream("POST", CHAT, json=asked | {"messages": messages}) as answer:
                assert answer.status_code == 200, answer.read()
                lines = [line for line in answer.iter_lines() if line.startswith("data:")]
            events = [json.loads(line.removeprefix("data:")) for line in lines if not line.endswith("[DONE]")]
            if "error" in events[-1]:
                ends["broken"] += 1
                continue
            assert events[-1]["choices"][0]["finish_reason"] == "length"
            assert len(events) >= 100
            ends["done"] += 1

    def ask(number: int) -> None:
        while not is_over.is_set():
            gateway.ask([{"role": "user", "content": f"Number {number}? " * 10}], max_tokens=20)
            ends["whole"] += 1

    victim = gateway.worker_pids()[0]
    with ThreadPoolExecutor(16) as pool:
        work = [pool.submit(stream, number) for number in range(12)]
        work += [pool.submit(ask, number) for number in range(4)]
        until(lambda: ends["done"] >= 12 or any(one.done() for one in work))
        before = ends.copy()
        os.kill(victim, signal.SIGKILL)
        killed_s = time.monotonic()
        noticed_s = until(lambda: gateway.workers_up() < NUM_WORKERS)
        back_s = noticed_s + until(lambda: gateway.workers_up() == NUM_WORKERS)
        until(lambda: time.monotonic() - killed_s > 10 and (ends - before)["done"] >= 12)
        is_over.set()
        for one in work:
            one.result()
    sys.stdout.write(f"noticed after {noticed_s:.2f} s, back after {back_s:.1f} s; ends {dict(ends)}\n")
    assert 1 <= ends["broken"] <= 12
    assert ends["whole"] > before["whole"]
    lines = log.read_text()
    assert "was ended by SIGKILL" in lines
    assert "runs again" in lines
    assert "Traceback" not in lines
    assert len(gateway.worker_pids()) == NUM_WORKERS


def test_a_signal_lets_answers_end_and_leaves_nothing(gateway: Running, log: Path) -> None:
    pids = gateway.descendants()
    body = {"model": "two-layers", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    messages = [{"role": "user", "content": "A long story."}]
    with gateway.client.stream("POST", CHAT, json=body | {"messages": messages}) as answer:
        lines = answer.iter_lines()
        next(lines)
        gateway.process.terminate()
        until(lambda: httpx.get(gateway.client.base_url.join("/health")).status_code == 503)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert gateway.process.wait(30) == 0
    assert not any(map(is_running, pids))
    assert "Traceback" not in log.read_text()


def test_nothing_outlives_a_gateway_that_is_killed(ternary_gguf: Path, tmp_path: Path) -> None:
    options = ["--model", str(ternary_gguf), "--workers", "2", "--threads", "1"]
    with started(tmp_path / "log", *options) as running:
        running.ask([{"role": "user", "content": "Hi"}], max_tokens=2)  # its templates run in a process too
        pids = running.descendants()
        assert len(pids) >= 4
        running.process.kill()
        running.process.wait()
        until(lambda: not any(map(is_running, pids)), 10)
