"""What the gateway costs, and how it spreads requests; two workers that answer at once and know nothing.

Requests a second, and the time between two tokens of streams that get one every 10 ms: from a worker itself,
through the router (smg) alone, and through the router and our HTTP. Rounds take turns; medians count. Then
conversations by both kinds of balance: how many requests each of four workers got, and how many turns stayed
with the worker of the turn before. Prints JSON, the processor time of our HTTP process too, which other work
on the machine does not change.

    python packages/inference/benchmarks/gateway.py --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wf_formats.environment import environment
from wrinklefree_inference.gateway.options import Policy
from wrinklefree_inference.gateway.router import Router

KEY = "key-of-the-benchmark"
TOKENS, GAP_S = 50, 0.01
CHUNK = {"id": "1", "object": "text_completion", "created": 1, "model": "toy"}


async def serve_worker(name: str) -> None:
    """An OpenAI server of a few lines, faster than what is measured; says its port."""

    def head(kind: str, more: str) -> bytes:
        return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{more}\r\n\r\n".encode()

    def whole(value: Any) -> bytes:
        body = json.dumps(value).encode()
        return head("application/json", f"Content-Length: {len(body)}") + body

    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    choice = {"index": 0, "text": name, "finish_reason": "stop", "logprobs": None}
    answers = {
        b"/health": whole({"status": "ok"}),
        b"/v1/models": whole({"object": "list", "data": [{"id": "toy", "object": "model", "created": 1}]}),
        b"/v1/completions": whole(CHUNK | {"choices": [choice], "usage": usage}),
    }
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_message(reader):
            path = request[0].split(b" ")[1].partition(b"?")[0]
            if b'"stream"' in request[1] and b'"stream":false' not in request[1]:
                writer.write(head("text/event-stream", "Transfer-Encoding: chunked"))
                for _ in range(TOKENS):
                    piece = {
                        "choices": [{"index": 0, "text": "word ", "finish_reason": None, "logprobs": None}]
                    }
                    write_chunk(writer, f"data: {json.dumps(CHUNK | piece)}\n\n".encode())
                    await asyncio.sleep(GAP_S)
                write_chunk(writer, b"data: [DONE]\n\n")
                write_chunk(writer, b"")
            else:
                if b'"slow"' in request[1]:
                    await asyncio.sleep(0.1)
                writer.write(answers.get(path, missing))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def write_chunk(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """Head and body of a request or an answer with a length."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = next(
        (part for part in head.lower().split(b"\r\n") if part.startswith(b"content-length:")), b":0"
    )
    return head, await reader.readexactly(int(length.partition(b":")[2]))


class Client:
    """One connection kept open."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)

    async def __aenter__(self) -> Client:
        host, port = self._parts.hostname, self._parts.port
        self.reader, self.writer = await asyncio.open_connection(host, port, limit=1 << 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, **body: Any) -> None:
        content = json.dumps({"model": "toy", "prompt": "x", **body}).encode()
        self.writer.write(
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )

    async def ask(self, **body: Any) -> str:
        """The worker that answered."""
        self.send(**body)
        message = await read_message(self.reader)
        assert message is not None
        assert b" 200 " in message[0], message
        return str(json.loads(message[1])["choices"][0]["text"])

    async def token_times(self) -> list[float]:
        """When the tokens of a stream came, from the request on."""
        started_s = time.perf_counter()
        self.send(stream=True)
        times: list[float] = []
        while (line := await self.reader.readline()).strip() != b"0":
            if line.startswith(b"data: {"):
                times.append(time.perf_counter() - started_s)
        await self.reader.readline()
        assert len(times) == TOKENS, times
        return times


async def requests_per_s(url: str, clients: int, seconds: float) -> float:
    async def ask(until_s: float) -> int:
        count = 0
        async with Client(url) as client:
            while time.perf_counter() < until_s:
                await client.ask()
                count += 1
        return count

    until_s = time.perf_counter() + seconds
    return sum(await asyncio.gather(*(ask(until_s) for _ in range(clients)))) / seconds


async def stream_times(url: str, clients: int) -> dict[str, float]:
    async def stream() -> list[float]:
        async with Client(url) as client:
            return await client.token_times()

    all_times = await asyncio.gather(*(stream() for _ in range(clients)))
    gaps = sorted(later - earlier for times in all_times for earlier, later in pairwise(times))
    return {
        "first_token_ms": 1000 * statistics.median(times[0] for times in all_times),
        "between_tokens_ms": 1000 * statistics.median(gaps),
        "between_tokens_p99_ms": 1000 * gaps[int(0.99 * len(gaps))],
    }


@asynccontextmanager
async def workers(number: int) -> AsyncIterator[list[str]]:
    command = [sys.executable, __file__, "--worker"]
    children = [
        subprocess.Popen([*command, f"W{place}"], stdout=subprocess.PIPE, text=True)
        for place in range(number)
    ]
    try:
        yield [f"http://127.0.0.1:{child.stdout.readline().strip()}" for child in children if child.stdout]
    finally:
        for child in children:
            child.kill()
            child.wait()


@asynccontextmanager
async def router(urls: list[str], balance: tuple[int, float] = Router.balance) -> AsyncIterator[str]:
    smg = Router(Policy.CACHE_AWARE, KEY, 4_000_000)
    smg.balance = balance
    try:
        await smg.start()
        await smg.route(urls)
        yield smg.url
    finally:
        await smg.stop(5)


@asynccontextmanager
async def gateway(urls: list[str]) -> AsyncIterator[tuple[str, int]]:
    """Its URL and process id."""
    command = [sys.executable, "-m", "wrinklefree_inference", "gateway", "--port", "0"]
    own = {"WF_API_KEY": KEY, "WF_WORKER_API_KEY": KEY}
    child = subprocess.Popen(
        [*command, *(f"--worker-url={url}" for url in urls)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | own,
    )
    try:
        assert child.stdout is not None
        yield child.stdout.readline().split(" at ")[1].split("/v1")[0], child.pid
    finally:
        child.terminate()
        child.wait()


async def costs(rounds: int, clients: int, seconds: float) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        urls = await stack.enter_async_context(workers(2))
        smg = await stack.enter_async_context(router(urls))
        url, pid = await stack.enter_async_context(gateway(urls))
        doors = {"worker": urls[0], "router": smg, "gateway": url}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in doors}
        for _ in range(rounds):
            for name, url in doors.items():
                rate = await requests_per_s(url, clients, seconds)
                found[name].append({"requests_per_s": rate, **await stream_times(url, clients)})
        cpu = {
            "cpu_ms_per_request": await cpu_ms(
                pid, requests_per_s(doors["gateway"], clients, seconds), seconds
            ),
            "cpu_ms_per_token": await cpu_ms(pid, stream_times(doors["gateway"], clients), clients * TOKENS),
        }
    return {
        name: {key: round(statistics.median(one[key] for one in ones), 3) for key in ones[0]}
        for name, ones in found.items()
    } | {"gateway_process": cpu}


async def cpu_ms(pid: int, work: Awaitable[Any], number: float) -> float:
    """Of a process, for one of `number` units; a float that `work` gives is units for each of them."""

    def used_s() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before_s = used_s()
    given = await work
    units = number * (given if isinstance(given, float) else 1)
    return round(1000 * (used_s() - before_s) / units, 3)


async def spread(balance: tuple[int, float], conversations: int, is_shared: bool) -> dict[str, Any]:
    """Conversations of four turns at the same time, whose prompts begin alike or not."""
    chance = random.Random(0)

    async def converse(url: str, number: int) -> list[str]:
        prompt = "You are a helper. " * 40 if is_shared else f"You are helper {number}. " * 40
        places = []
        async with Client(url) as client:
            for _ in range(4):
                prompt += "".join(chance.choices("abcdef gh", k=200))
                places.append(await client.ask(prompt=prompt, user="slow"))
        return places

    async with workers(4) as urls, router(urls, balance) as url:
        found = await asyncio.gather(*(converse(url, number) for number in range(conversations)))
    turns = [earlier == later for places in found for earlier, later in pairwise(places)]
    counts = Counter(place for places in found for place in places)
    return {"by_worker": sorted(counts.values()), "stayed": sum(turns), "of": len(turns)}


async def main(args: argparse.Namespace) -> None:
    spreads: dict[str, Any] = {}
    for balance in ((64, 1.5), Router.balance):
        for number, is_shared in ((8, False), (8, True), (32, False), (32, True)):
            name = f"{balance}: {number} {'shared' if is_shared else 'own'}"
            spreads[name] = await spread(balance, number, is_shared)
    report = {
        "clients": args.clients,
        "costs": await costs(args.rounds, args.clients, args.seconds),
        "balance": spreads,
        **environment("starlette", "uvicorn", "httpx"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=16, help="at the same time (default: 16)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each count (default: 3)")
    parser.add_argument("--worker", metavar="NAME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    asyncio.run(serve_worker(given.worker) if given.worker else main(given))
