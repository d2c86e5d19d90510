"""The door in front of another server: here of the toy server itself."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import httpx
import openai
import pytest

from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.proxy import create_proxy
from wrinklefree_inference.http.upstream import Upstream
from wrinklefree_inference.options import HttpOptions

ASK = {"model": "org/toy", "prompt": "x", "max_tokens": 20}


@pytest.fixture
def proxied(toy, listening):
    """Context of (URL of the proxy, engine behind): the proxy has one key, the server behind another."""

    @asynccontextmanager
    async def start(**engine_options):
        engine = toy.ToyEngine(**engine_options)
        behind = create_server(engine, keys=ApiKeys.of(["inner-key"]))
        async with listening(behind, engine.drain) as inner:
            upstream = Upstream(f"{inner}/v1", "inner-key", timeout_s=5)
            proxy = create_proxy(upstream, HttpOptions(max_body_mb=0.01), ApiKeys.of(["outer-key"]))
            async with listening(proxy) as url:
                yield url, engine
            await upstream.aclose()

    return start


def test_answers_pass_unchanged(proxied, toy):
    async def main():
        async with (
            proxied() as (url, _),
            openai.AsyncOpenAI(api_key="outer-key", base_url=f"{url}/v1", max_retries=0) as client,
        ):
            raw = await client.completions.with_raw_response.create(**ASK, extra_body={"num_ctx": 5})
            assert raw.headers["x-wf-ignored"] == "num_ctx"
            whole = raw.parse()
            stream = await client.completions.create(**ASK, stream=True)
            texts = [chunk.choices[0].text async for chunk in stream]
            chat = await client.chat.completions.create(
                model="org/toy", messages=[{"role": "user", "content": "x"}], max_tokens=3
            )
            models = [m.id async for m in client.models.list()]
            one = await client.models.retrieve("org/toy")
            with pytest.raises(openai.BadRequestError) as refused:
                await client.completions.create(**ASK, best_of=17)
            return whole, texts, chat, models, one, refused.value

    whole, texts, chat, models, one, refused = asyncio.run(main())
    assert whole.choices[0].text == "".join(texts) == toy.TEXT[:20]
    assert len(texts) == 20
    assert chat.choices[0].message.content == toy.TEXT[:3]
    assert models == [one.id] == ["org/toy"]
    assert refused.param == "best_of"


def test_only_who_counts_tokens_logs_them(proxied, caplog):
    async def main():
        headers = {"Authorization": "Bearer outer-key"}
        async with proxied() as (url, _), httpx.AsyncClient(base_url=url, headers=headers) as client:
            await client.post("/v1/completions", json=ASK)

    with caplog.at_level("INFO"):
        asyncio.run(main())
    asked = [
        record.fields for record in caplog.records if "/v1/completions" in str(vars(record).get("fields"))
    ]
    assert sorted("completion_tokens" in fields for fields in asked) == [False, True]


def test_the_door_s_own_rules(proxied):
    async def main():
        headers = {"Authorization": "Bearer outer-key"}
        async with proxied() as (url, engine), httpx.AsyncClient(base_url=url) as client:
            inner = await client.post(
                "/v1/completions", json=ASK, headers={"Authorization": "Bearer inner-key"}
            )
            long = await client.post("/v1/completions", json=ASK | {"user": "x" * 10_000}, headers=headers)
            other = await client.get("/v1/images", headers=headers)
            health = await client.get("/health")
            metrics = await client.get("/metrics", headers=headers)
            return inner, long, other, health, metrics, len(engine.seen)

    inner, long, other, health, metrics, num_seen = asyncio.run(main())
    assert [reply.status_code for reply in (inner, long, other, health)] == [401, 413, 404, 200]
    assert "wf_http_requests_total" in metrics.text
    assert num_seen == 0


def test_responses_and_embeddings_pass_too(proxied, toy):
    """A stream of theirs has its own end, and no error event after it."""

    async def main():
        async with (
            proxied() as (url, _),
            openai.AsyncOpenAI(api_key="outer-key", base_url=f"{url}/v1", max_retries=0) as client,
        ):
            ask = {"model": "org/toy", "input": "x", "max_output_tokens": 3}
            events = [event async for event in await client.responses.create(**ask, stream=True)]
            vectors = await client.embeddings.create(model="org/toy", input=["ab"])
            return events, vectors.data[0].embedding

    events, vector = asyncio.run(main())
    assert (events[0].type, events[-1].type) == ("response.created", "response.incomplete")
    assert events[-1].response.output_text == toy.TEXT[:3]
    assert vector == pytest.approx(toy.embedding_of((97, 98)), abs=1e-7)


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_reaches_the_server_behind(stream, proxied):
    async def main():
        headers = {"Authorization": "Bearer outer-key"}
        async with proxied(delay_s=0.02) as (url, engine), httpx.AsyncClient(base_url=url) as client:
            body = ASK | {"max_tokens": 400, "stream": stream}
            asking = asyncio.create_task(client.post("/v1/completions", json=body, headers=headers))
            while not engine.open:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            asking.cancel()
            async with asyncio.timeout(2):
                while engine.open:
                    await asyncio.sleep(0.005)
            return engine.cancelled

    assert len(asyncio.run(main())) == 1


def test_nobody_behind(listening):
    async def main():
        upstream = Upstream("http://127.0.0.1:9")
        proxy = create_proxy(upstream)
        async with (
            listening(proxy) as url,
            httpx.AsyncClient(base_url=url) as client,
        ):
            replies = await client.post("/v1/completions", json=ASK), await client.get("/health")
        await upstream.aclose()
        return replies

    reply, health = asyncio.run(main())
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "upstream_unreachable"
    assert (health.status_code, health.json()) == (503, {"status": "failed"})


def test_the_server_behind_breaks_off(listening):
    """Half a stream, then nothing: the client sees an unfinished stream, not a good end."""

    async def behind(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\n"
        writer.write(head + b"data: {}\n\n")
        await writer.drain()
        writer.close()

    async def main():
        inner = await asyncio.start_server(behind, "127.0.0.1", 0)
        upstream = Upstream(f"http://127.0.0.1:{inner.sockets[0].getsockname()[1]}")
        proxy = create_proxy(upstream)
        async with (
            listening(proxy) as url,
            httpx.AsyncClient(base_url=url) as client,
        ):
            reply = await client.post("/v1/completions", json=ASK)
        await upstream.aclose()
        inner.close()
        return reply

    reply = asyncio.run(main())
    assert "upstream_broke_off" in reply.text
    assert "[DONE]" not in reply.text


@pytest.mark.parametrize("url", ["ftp://x", "nothing", "http://"])
def test_urls(url):
    with pytest.raises(ValueError, match="must begin with http"):
        Upstream(url)


def _answering(status: bytes, headers: bytes, body: bytes):
    """A server behind that says these bytes to everything; `seen` are the request lines."""
    seen = []

    async def answer(reader, writer):
        seen.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n" + headers + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    return answer, seen


def _through(listening, paths, *answer):
    """Statuses that the proxy answers requests of these paths with, and the request lines behind it."""

    async def main():
        behind, seen = _answering(*answer)
        server = await asyncio.start_server(behind, "127.0.0.1", 0)
        upstream = Upstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=5)
        proxy = create_proxy(upstream)
        async with listening(proxy) as url:
            statuses = []
            for path in paths:
                host, port = url.removeprefix("http://").split(":")
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                statuses.append((await reader.readline()).split()[1])
                writer.close()
        await upstream.aclose()
        server.close()
        return statuses, seen

    return asyncio.run(main())


def test_no_path_leads_out_of_v1(listening):
    paths = ["/v1/models/../../admin", "/v1/models/..%2f..%2fadmin", "/v1/models/%2e%2e/%2e%2e/admin"]
    statuses, seen = _through(listening, paths, b"200 OK", b"Content-Length: 2", b"{}")
    assert statuses == [b"404"] * 3
    assert seen == []


def test_names_of_models_are_encoded_again(listening):
    paths = ["/v1/models/%00", "/v1/models/a%25b%5bc", "/v1/models/org/toy"]
    statuses, seen = _through(listening, paths, b"200 OK", b"Content-Length: 2", b"{}")
    assert statuses == [b"200"] * 3
    assert [line.split()[1].decode() for line in seen] == [
        "/v1/models/%00", "/v1/models/a%25b%5Bc", "/v1/models/org/toy"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((b"200 OK", b"Content-Encoding: gzip\r\nContent-Length: 4", b"abcd"), b"502"),
        ((b"999 X", b"Content-Length: 2", b"{}"), b"502"),
        ((b"600 X", b"Content-Length: 2", b"{}"), b"502"),
        ((b"200 OK", "Content-Length: 2\r\nRetry-After: 漢".encode(), b"{}"), b"200"),
    ],
)
def test_what_is_no_answer_is_a_bad_gateway(listening, answer, status):
    assert _through(listening, ["/v1/models"], *answer)[0] == [status]
