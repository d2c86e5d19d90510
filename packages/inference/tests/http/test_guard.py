"""Keys, hosts, bodies, origins."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from wrinklefree_inference.http.app import create_server
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.errors import ApiError
from wrinklefree_inference.http.listening import bind
from wrinklefree_inference.keys import read_keys
from wrinklefree_inference.options import HttpOptions, ListenOptions

TEXT = "/v1/completions"
ASK = {"model": "org/toy", "prompt": "x"}


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer first-key", 200),
        ("bearer second-key", 200),
        ("Bearer third-key", 401),
        ("Bearer first-ke", 401),
        ("Bearer first-key second-key", 401),
        ("Bearer ", 401),
        ("Basic first-key", 401),
        ("first-key", 401),
        ("Bearer pässword", 401),
    ],
)
def test_keys(header, status, engine, talk):
    server = create_server(engine, keys=ApiKeys.of(["first-key", "second-key"]))
    headers = {} if header is None else {"Authorization": header.encode()}

    async def work(http):
        paths = ("/v1/models", "/metrics", "/openapi.json")
        replies = [await http.plain.get(path, headers=headers) for path in paths]
        return [*replies, await http.plain.post(TEXT, json=ASK, headers=headers)]

    for reply in talk(server, work):
        assert reply.status_code == status
        if status == 401:
            assert reply.json()["error"]["code"] == "invalid_api_key"
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "first-key" not in reply.text


def test_health_needs_no_key(engine, talk):
    server = create_server(engine, keys=ApiKeys.of(["some-key"]))

    async def work(http):
        return await http.plain.get("/health")

    assert talk(server, work).status_code == 200


def test_two_keys_in_one_request_are_refused():
    keys = ApiKeys.of(["some-key"])
    assert keys.index_of([b"Bearer some-key"]) == 0
    with pytest.raises(ApiError):
        keys.index_of([b"Bearer some-key", b"Bearer some-key"])


def test_keys_of_a_file(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text("# of the team\n\nfirst-key\n second-key \nfirst-key\n")
    keys = ApiKeys.of(read_keys(["zero-key"], path))
    assert keys.keys == (b"zero-key", b"first-key", b"second-key")
    assert "key" not in repr(keys).lower().replace("apikeys", "")
    path.write_text("# none\n")
    with pytest.raises(ValueError, match="has no keys"):
        read_keys((), path)


@pytest.mark.parametrize("key", ["", "abc", "with space", "pässword", "line\nbreak"])
def test_keys_that_no_header_carries(key):
    with pytest.raises(ValueError, match="API key 0 must have") as error:
        read_keys([key])
    assert not key or key not in str(error.value)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200), ("evil.example", 403), ("", 403)],
)
def test_without_keys_only_loopback_names(host, status, server, talk):
    async def work(http):
        return await http.plain.get("/v1/models", headers={"Host": host})

    assert talk(server, work).status_code == status


def test_with_keys_any_name(engine, talk):
    server = create_server(engine, keys=ApiKeys.of(["some-key"]))

    async def work(http):
        headers = {"Host": "my.example", "Authorization": "Bearer some-key"}
        return await http.plain.get("/v1/models", headers=headers)

    assert talk(server, work).status_code == 200


def test_other_hosts_need_a_key():
    with pytest.raises(ValueError, match="set an API key"):
        ListenOptions("0.0.0.0", 0)
    bind(ListenOptions("0.0.0.0", 0, api_key=["some-key"])).close()


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"]
)
def test_a_web_page_cannot_post_without_asking(kind, server, talk):
    async def work(http):
        headers = {} if kind is None else {"Content-Type": kind}
        return await http.plain.post(TEXT, content=b'{"model": "org/toy", "prompt": "x"}', headers=headers)

    reply = talk(server, work)
    assert reply.status_code == 415
    assert reply.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("chunked", [False, True])
def test_long_bodies(chunked, engine, talk):
    server = create_server(engine, HttpOptions(max_body_mb=0.001))
    seen: list[int] = []

    async def pieces():
        for i in range(100):
            seen.append(i)
            yield b" " * 100

    async def work(http):
        headers = {"Content-Type": "application/json"}
        content = pieces() if chunked else b" " * 10_000
        return await http.plain.post(TEXT, content=content, headers=headers)

    reply = talk(server, work)
    assert reply.status_code == 413
    assert reply.json()["error"]["message"] == "the body is longer than 1000 bytes"


def test_a_body_of_the_greatest_length(engine, talk):
    body = b'{"model": "org/toy", "prompt": "x"}'.ljust(1000)
    server = create_server(engine, HttpOptions(max_body_mb=0.001))

    async def work(http):
        return await http.plain.post(TEXT, content=body, headers={"Content-Type": "application/json"})

    assert talk(server, work).status_code == 200


def test_a_body_that_does_not_come(engine, listening):
    server = create_server(engine, HttpOptions(body_timeout_s=0.1))

    async def main():
        async with listening(server, engine.drain) as url:
            host, port = url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            reply = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return reply

    assert asyncio.run(main()).startswith(b"HTTP/1.1 408")


def test_a_long_body_over_a_socket_gets_its_answer(in_thread):
    import httpx

    with in_thread() as (url, _):
        headers = {"Content-Type": "application/json"}
        reply = httpx.post(f"{url}{TEXT}", content=b" " * 6_000_000, headers=headers)
        assert reply.status_code == 413


def test_origins(engine, talk):
    options = HttpOptions(allow_origins=["https://page.example"])
    server = create_server(engine, options, keys=ApiKeys.of(["some-key"]))

    async def work(http):
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflights = [
            await http.plain.options(TEXT, headers=ask | {"Origin": origin})
            for origin in ("https://page.example", "https://other.example")
        ]
        headers = {"Origin": "https://page.example", "Authorization": "Bearer some-key"}
        return *preflights, await http.plain.get("/v1/models", headers=headers)

    allowed, refused, real = talk(server, work)
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    assert allowed.status_code == 200
    assert "access-control-allow-origin" not in refused.headers
    assert refused.status_code == 400
    assert real.headers["access-control-allow-origin"] == "https://page.example"
    assert "x-request-id" in real.headers


@pytest.mark.parametrize(
    ("path", "origin", "method", "reason"),
    [
        (TEXT, "https://other.example", "POST", "origin"),
        (TEXT, "https://page.example", "DELETE", "method"),
        ("/health", "https://other.example", "PUT", "origin, method"),
        ("/api/chat", "https://other.example", "POST", "origin"),
    ],
)
def test_a_refused_preflight_is_an_error_as_others(path, origin, method, reason, engine, talk):
    server = create_server(engine, HttpOptions(allow_origins=["https://page.example"]))

    async def work(http):
        headers = {"Origin": origin, "Access-Control-Request-Method": method}
        return await http.plain.options(path, headers=headers)

    reply = talk(server, work)
    assert (reply.status_code, reply.headers["content-type"]) == (400, "application/json")
    error = reply.json()["error"]
    if path.startswith("/api/"):  # Ollama's clients take it for a text
        error = {"message": error, "code": "cors_not_allowed"}
    assert (
        error["message"] == f"a web page may not send this (CORS): {reason} not allowed; see --allow-origin"
    )
    assert error["code"] == "cors_not_allowed"
    assert "origin" in reply.headers["vary"].lower()
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/models", 405), ("/api/tags", 405), ("/v1/nowhere", 404), ("/nowhere", 404)]
)
@pytest.mark.parametrize("kind", [None, "text/plain", "application/json"])
def test_what_a_path_does_not_have_is_told_before_the_body_s_type(path, status, kind, server, talk):
    async def work(http):
        headers = {} if kind is None else {"Content-Type": kind}
        return await http.plain.post(path, content=b"{}", headers=headers)

    reply = talk(server, work)
    assert reply.status_code == status
    assert reply.headers.get("allow") == ("GET" if status == 405 else None)


@pytest.mark.parametrize(
    ("method", "path", "fields", "status"),
    [
        ("POST", TEXT, {"headers": {"Authorization": "Bearer wrong-key"}, "json": ASK}, 401),
        ("GET", "/nowhere", {}, 404),
        ("GET", TEXT, {}, 405),
        ("POST", TEXT, {"json": ASK | {"prompt": "x" * 2000}}, 413),
        ("POST", TEXT, {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ("POST", TEXT, {"json": ASK | {"max_tokens": -2}}, 400),
        ("POST", TEXT, {"json": ASK | {"prompt": ["x"] * 16}}, 429),
        ("POST", TEXT, {"json": ASK | {"prompt": "defect"}}, 500),
        ("POST", TEXT, {"json": ASK | {"prompt": "crash"}}, 503),
    ],
)
def test_a_web_page_can_read_refusals(method, path, fields, status, engine, talk):
    options = HttpOptions(allow_origins=["https://page.example"], max_body_mb=0.001)
    server = create_server(engine, options, keys=ApiKeys.of(["some-key"]))

    async def work(http):
        headers = {"Authorization": "Bearer some-key", "Origin": "https://page.example"}
        headers |= fields.get("headers", {})
        http.plain._transport.raise_app_exceptions = False
        return await http.plain.request(method, path, **fields | {"headers": headers})

    reply = talk(server, work)
    assert reply.status_code == status
    assert reply.headers["access-control-allow-origin"] == "https://page.example"
    assert "error" in reply.json()
    assert reply.headers["x-request-id"]


def test_draining_too_can_be_read(engine, talk):
    server = create_server(engine, HttpOptions(allow_origins=["https://page.example"]))
    server.lifecycle.is_draining = True

    async def work(http):
        return await http.plain.post(TEXT, json=ASK, headers={"Origin": "https://page.example"})

    reply = talk(server, work)
    assert reply.status_code == 503
    assert reply.headers["access-control-allow-origin"] == "https://page.example"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health", 200), ("/v1/models", 200), ("/metrics", 200), ("/nowhere", 404), (TEXT, 405)],
)
def test_head_is_get_without_a_body(path, status, in_thread):
    import httpx

    with in_thread() as (url, _):
        reply = httpx.head(f"{url}{path}")
        assert (reply.status_code, reply.content) == (status, b"")
        assert int(reply.headers["content-length"]) > 0


def test_no_origin_by_default(server, talk):
    async def work(http):
        return await http.plain.get("/v1/models", headers={"Origin": "https://page.example"})

    assert "access-control-allow-origin" not in talk(server, work).headers
