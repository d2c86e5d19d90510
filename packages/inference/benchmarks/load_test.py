"""A server under load: clients that stream, some that leave midway, one that sends garbage.

Starts `serve` on loopback (or takes --url), asks for chats and completions of real text for a while, and
prints JSON: throughput, latency percentiles, counts, the server's memory over time, hardware, commit and
versions. Exits with 1 unless every well-behaved request ended as it should, the garbage was refused with
4xx, and memory stayed flat (second half of the run; at most 2 % or 8 MB more at its end than at its
beginning).

Answers have a fixed length (`ignore_eos`), so that two servers do the same work.

    python packages/inference/benchmarks/load_test.py --model model.gguf --seconds 60
    python packages/inference/benchmarks/load_test.py --model model.gguf --compare-llamacpp model.gguf
    python packages/inference/benchmarks/load_test.py --url http://localhost:8080 --pid 123 --text novel.txt
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from wf_formats.environment import environment
from wrinklefree_inference.addresses import trusts_environment

FLAT_SHARE, FLAT_BYTES = 0.02, 8_000_000
PACKAGES = ("wrinklefree-inference", "ternary-kernels", "xllamacpp", "numpy", "starlette", "uvicorn", "httpx")


@dataclass
class Tally:
    """What the clients saw; times in seconds since the start of the run."""

    until_s: float
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)
    between_tokens_s: list[float] = field(default_factory=list)
    request_s: list[float] = field(default_factory=list)
    tokens: float = 0.0
    prompt_tokens: int = 0
    rss_bytes: list[tuple[float, int]] = field(default_factory=list)

    def fail(self, what: str) -> None:
        """A well-behaved client was treated badly."""
        self.counts["errors"] += 1
        if len(self.errors) < 10:
            self.errors.append(what[:300])


class Load:
    """All clients of one run against one server."""

    def __init__(self, url: str, options: argparse.Namespace, pid: int | None, texts: list[str]) -> None:
        self._url, self._options, self._pid, self._texts = url, options, pid, texts
        headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=300, limits=limits, trust_env=trusts_environment(url)
        )
        self._tally = Tally(options.seconds)
        self._model = ""
        self._started = 0.0

    async def run(self) -> Tally:
        """Warm up with one request for each client, then measure."""
        async with self._client:
            listed = (await self._client.get("/v1/models")).raise_for_status().json()
            self._model = listed["data"][0]["id"]
            numbers = range(self._options.clients)
            await asyncio.gather(*(self._stream(random.Random(-1 - i), leaves=False) for i in numbers))
            if self._tally.errors:
                raise SystemExit(f"the warm-up failed: {self._tally.errors[0]}")
            self._tally = Tally(self._options.seconds)
            self._started = time.perf_counter()
            clients = [self._client_loop(i, leaves=i < self._options.leavers) for i in numbers]
            await asyncio.gather(*clients, self._garbage_loop(), self._watch_memory())
        return self._tally

    def _now(self) -> float:
        return time.perf_counter() - self._started

    async def _client_loop(self, number: int, leaves: bool) -> None:
        chance = random.Random(number)
        while self._now() < self._options.seconds:
            try:
                await self._stream(chance, leaves)
            except httpx.HTTPError as error:
                self._tally.fail(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.5)

    async def _stream(self, chance: random.Random, leaves: bool) -> None:
        """One request; a leaver closes the connection after a few tokens."""
        path, body = self._request(chance)
        patience = chance.randrange(1, self._options.max_tokens) if leaves else None
        started, times_s, usage, is_done = time.perf_counter(), [], None, False
        async with self._client.stream("POST", path, json=body) as reply:
            if reply.status_code != httpx.codes.OK:
                await reply.aread()
                self._tally.fail(f"status {reply.status_code}: {reply.text}")
                return
            async for line in reply.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    is_done = True
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    self._tally.fail(f"error event: {event['error']}")
                    return
                usage = event.get("usage") or usage
                if any(c.get("text") or c.get("delta", {}).get("content") for c in event["choices"]):
                    times_s.append(time.perf_counter())
                if patience is not None and len(times_s) >= patience:
                    self._note_left(times_s)
                    return
        if is_done and usage is not None:
            self._note_answer(started, times_s, usage)
        else:
            self._tally.fail(f"a stream ended without {'usage' if is_done else '[DONE]'}")

    def _request(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        text = chance.choice(self._texts)[: chance.choice(self._options.prompt_characters)]
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": self._options.max_tokens,
            "temperature": 0.8,
            "seed": chance.randrange(2**31),
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        if not self._options.no_chat and chance.random() < 0.5:
            return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": text}]}
        return "/v1/completions", body | {"prompt": text}

    def _note_answer(self, started: float, times_s: list[float], usage: dict[str, Any]) -> None:
        tally = self._tally
        tally.counts["answered"] += 1
        tally.prompt_tokens += usage["prompt_tokens"]
        if times_s:
            tally.first_token_s.append(times_s[0] - started)
            tally.request_s.append(times_s[-1] - started)
            tally.between_tokens_s += [b - a for a, b in pairwise(times_s)]
            in_time = sum(t - self._started <= tally.until_s for t in times_s)
            tally.tokens += usage["completion_tokens"] * in_time / len(times_s)
        if usage["completion_tokens"] != self._options.max_tokens:
            tally.fail(f"{usage['completion_tokens']} tokens instead of {self._options.max_tokens}")

    def _note_left(self, times_s: list[float]) -> None:
        self._tally.counts["left"] += 1
        self._tally.tokens += sum(t - self._started <= self._tally.until_s for t in times_s)

    async def _garbage_loop(self) -> None:
        chance = random.Random("garbage")
        while self._now() < self._options.seconds:
            try:
                status = await self._garbage(chance)
            except (httpx.HTTPError, OSError):  # it may hang up on us
                status = "hung up"
            self._tally.counts[f"garbage {status}"] += 1
            await asyncio.sleep(0.2)

    async def _garbage(self, chance: random.Random) -> str:
        kind = chance.randrange(7)
        if kind == 0:
            return await self._raw(chance.randbytes(chance.randrange(1, 2000)) + b"\r\n\r\n")
        if kind == 1:  # half a request
            return await self._raw(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        bodies = {
            2: chance.randbytes(500),
            3: b'{"a":' * 20_000,
            4: json.dumps({"model": self._model, "prompt": ["x", 1], "n": "many"}).encode(),
            5: json.dumps({"model": self._model, "messages": [1] * 100_000, "no_such_field": 1}).encode(),
            6: b" " * 5_000_000,
        }
        path = chance.choice(("/v1/chat/completions", "/v1/completions"))
        headers = {"Content-Type": "application/json"}
        reply = await self._client.post(path, content=bodies[kind], headers=headers)
        return f"{reply.status_code // 100}xx"

    async def _raw(self, data: bytes) -> str:
        url = httpx.URL(self._url)
        reader, writer = await asyncio.open_connection(url.host, url.port or 80)
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(1):
                reply = await reader.read(100)
            return f"{reply[9:10].decode()}xx" if reply.startswith(b"HTTP/") else "hung up"
        except TimeoutError:
            return "ignored"
        finally:
            writer.close()

    async def _watch_memory(self) -> None:
        while self._pid is not None and self._now() < self._options.seconds:
            self._tally.rss_bytes.append((self._now(), rss_bytes(self._pid)))
            await asyncio.sleep(0.25)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def started_server(arguments: list[str]) -> Iterator[tuple[str, int]]:
    """`serve` as a process; its URL and process id."""
    command = [sys.executable, "-m", "wrinklefree_inference", "serve", "--port", "0", *arguments]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        if " at " not in line:
            raise SystemExit(f"the server did not start: {' '.join(command)}")
        yield line.split(" at ")[1].split("/v1")[0], child.pid
        child.terminate()
        if (code := child.wait(60)) != 0:
            raise SystemExit(f"the server ended with {code}")
    finally:
        if child.poll() is None:
            child.kill()
        child.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(5)


def percentiles(values: list[float]) -> dict[str, float] | None:
    """Milliseconds."""
    if len(values) < 2:
        return None
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {name: round(1000 * cuts[i - 1], 1) for name, i in (("p50", 50), ("p90", 90), ("p99", 99))}


def memory(samples: list[tuple[float, int]]) -> dict[str, Any] | None:
    """The run's second half: medians of its first and last quarter, and whether that is flat."""
    half = [rss for _, rss in samples[len(samples) // 2 :]]
    if len(half) < 4:
        return None
    quarter = len(half) // 4
    before, after = statistics.median(half[:quarter]), statistics.median(half[-quarter:])
    return {
        "rss_mb_start": round(samples[0][1] / 1e6, 1),
        "rss_mb_middle": round(before / 1e6, 1),
        "rss_mb_end": round(after / 1e6, 1),
        "rss_mb_max": round(max(rss for _, rss in samples) / 1e6, 1),
        "is_flat": after - before <= max(FLAT_SHARE * before, FLAT_BYTES),
    }


def report(tally: Tally) -> dict[str, Any]:
    """Figures of one run."""
    garbage = {k: n for k, n in sorted(tally.counts.items()) if k.startswith("garbage")}
    held = memory(tally.rss_bytes)
    return {
        "tokens_per_s": round(tally.tokens / tally.until_s, 2),
        "answered": tally.counts["answered"],
        "left_midway": tally.counts["left"],
        "prompt_tokens_answered": tally.prompt_tokens,
        "first_token_ms": percentiles(tally.first_token_s),
        "between_tokens_ms": percentiles(tally.between_tokens_s),
        "request_ms": percentiles(tally.request_s),
        "garbage": garbage,
        "errors": tally.counts["errors"],
        "error_examples": tally.errors,
        "memory": held,
        "checks": {
            "no_error_for_the_well_behaved": not tally.counts["errors"] and tally.counts["answered"] > 0,
            "garbage_refused": not any(k.endswith((" 5xx", " 2xx")) for k in garbage),
            "memory_flat": None if held is None else held["is_flat"],
        },
    }


def read_texts(path: Path | None) -> list[str]:
    """Paragraphs of a text file, of the `text` fields of JSON lines, or of a folder of them.

    Without a path: the language reference that every Python has.
    """
    if path is None:
        import pydoc_data.topics

        sources = list(pydoc_data.topics.topics.values())
    else:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        sources = [text for file in files for text in _texts_of(file)]
    texts = [p.strip() for source in sources for p in source.split("\n\n") if len(p) > 40]
    if not texts:
        raise SystemExit(f"no text in {path}")
    return random.Random(0).sample(texts, min(len(texts), 5000))


def _texts_of(file: Path) -> list[str]:
    if ".json" not in file.name:
        return [file.read_text("utf-8")] if file.suffix in (".txt", ".md") else []
    if ".jsonl" not in file.name:
        return []
    with (
        gzip.open(file, "rt", encoding="utf-8")
        if file.suffix == ".gz"
        else file.open(encoding="utf-8") as lines
    ):
        return [
            row["text"] for _, row in zip(range(2000), map(json.loads, lines), strict=False) if "text" in row
        ]


def serve_arguments(engine: str, model: str, options: argparse.Namespace) -> list[str]:
    """The same context, places and threads for both engines."""
    given = ["--engine", engine, "--model", model, "--context", str(options.context)]
    given += ["--threads", str(options.threads)] if options.threads else []
    if engine == "llamacpp":
        return [*given, "--parallel", str(options.clients)]
    return [*given, "--max-running", str(options.clients), "--log-format", "json", *options.serve_option]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="serve this with the native engine")
    parser.add_argument("--url", help="a running server instead")
    parser.add_argument("--pid", type=int, help="its process, for memory")
    parser.add_argument("--api-key", help="its key")
    parser.add_argument("--compare-llamacpp", metavar="GGUF", help="then the same against llama.cpp's server")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--leavers", type=int, default=3, help="clients of these that leave midway")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--text", type=Path, help="text, JSON lines or a folder (Python's reference)")
    parser.add_argument(
        "--prompt-characters",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[60, 200, 600, 1500],
        help="lengths to choose prompts from (60,200,600,1500)",
    )
    parser.add_argument("--no-chat", action="store_true", help="completions alone (no chat template)")
    parser.add_argument(
        "--serve-option", action="append", default=[], help="passed to serve, e.g. =--threads=1"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if (options.model is None) == (options.url is None):
        parser.error("give --model or --url")
    if not 0 < options.seconds <= 600:
        parser.error(f"--seconds must be in (0, 600], got {options.seconds}")
    return options


def measure(engine: str, model: str, options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Start a server, load it, stop it."""
    with started_server(serve_arguments(engine, model, options)) as (url, pid):
        return report(asyncio.run(Load(url, options, pid, texts).run()))


def main() -> None:
    """Print the report; exit with 1 if a check failed."""
    options = parse()
    texts = read_texts(options.text)
    result: dict[str, Any] = {
        "benchmark": "server load test",
        "options": {
            k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "api_key"
        },
        **environment(*PACKAGES),
    }
    if options.url:
        result["server"] = report(asyncio.run(Load(options.url, options, options.pid, texts).run()))
    else:
        result["server"] = measure("native", options.model, options, texts)
    if options.compare_llamacpp:
        result["llamacpp"] = measure("llamacpp", options.compare_llamacpp, options, texts)
        ratio = result["server"]["tokens_per_s"] / max(result["llamacpp"]["tokens_per_s"], 1e-9)
        result["tokens_per_s_ratio"] = round(ratio, 3)
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    if False in result["server"]["checks"].values():
        sys.exit(1)


if __name__ == "__main__":
    main()
