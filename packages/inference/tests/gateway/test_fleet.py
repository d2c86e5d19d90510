"""Workers, router and the HTTP in front of them, of fakes that start at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.gateway.face import create_gateway
from wrinklefree_inference.gateway.fleet import Fleet
from wrinklefree_inference.gateway.supervised import ChildFailedError
from wrinklefree_inference.gateway.worker import Worker
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.upstream import Upstream
from wrinklefree_inference.options import HttpOptions

NewFleet = Callable[..., Fleet]
ASK = {"model": "toy", "prompt": "x"}


Work = Callable[[httpx.AsyncClient], Awaitable[None]]


def run(
    fleet: Fleet, work: Work | None = None, keys: tuple[str, ...] = (), beside: Worker | None = None
) -> None:
    """`work` with a client of the gateway in front of a fleet that is kept; `beside` is a server by URL."""

    async def main() -> None:
        upstream = Upstream(fleet.router.url, fleet.key)
        try:
            if beside is not None:
                await beside.start()
            await fleet.start()
            keeping = asyncio.ensure_future(fleet.keep())
            app = create_gateway(fleet, upstream, HttpOptions(), ApiKeys.of(keys)).app
            transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                if work is not None:
                    await work(client)
            keeping.cancel()
            await asyncio.wait([keeping])
        finally:
            if beside is not None:
                await beside.stop(5)
            await fleet.stop(5)
            await upstream.aclose()

    asyncio.run(main())


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_true():
            await asyncio.sleep(0.01)


def pids_of(fleet: Fleet) -> list[int]:
    return [pid for child in [*fleet.workers, fleet.router] if (pid := child.pid) is not None]


def test_what_dies_is_replaced_and_nothing_is_left(
    new_fleet: NewFleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = new_fleet()
    first = fleet.workers[0]
    seen: list[int] = []

    async def answering_ports(client: httpx.AsyncClient) -> set[str]:
        answers = [await client.post("/v1/completions", json=ASK) for _ in range(4)]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["key"] for answer in answers} == {f"Bearer {fleet.key}"}
        return {answer.json()["port"] for answer in answers}

    async def work(client: httpx.AsyncClient) -> None:
        seen.extend(pids_of(fleet))
        ports = {worker.url.rpartition(":")[2] for worker in fleet.workers}
        assert await answering_ports(client) == ports
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: not first.is_up)
        assert fleet.up()[first.url] is False
        assert (await client.get("/health")).json() == {"status": "ok", "workers": {"up": 1, "of": 2}}
        assert (await client.post("/v1/completions", json=ASK)).status_code == 200
        await until(lambda: fleet.up()[first.url])
        assert first.restarts == 1
        assert await answering_ports(client) == ports
        os.kill(fleet.router.pid, signal.SIGKILL)
        await until(lambda: not fleet.router.is_up)
        health = await client.get("/health")
        assert (health.status_code, health.json()["workers"]["up"]) == (503, 0)
        assert (await client.post("/v1/completions", json=ASK)).status_code == 502
        await until(lambda: all(fleet.up().values()))
        assert await answering_ports(client) == ports
        seen.extend(pids_of(fleet))

    run(fleet, work)
    assert "worker 1 was ended by SIGKILL (out of memory?); it is started again in 0.05 s" in caplog.text
    assert len(set(seen)) == 5
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)


def test_every_path_but_health_asks_for_a_key_and_the_metrics_of_all_are_one_page(
    new_fleet: NewFleet,
) -> None:
    fleet = new_fleet()

    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).status_code == 200
        for path in ("/v1/models", "/v1/models/toy", "/metrics", "/openapi.json"):
            assert (await client.get(path)).status_code == 401
        assert (await client.post("/v1/completions", json=ASK)).status_code == 401
        client.headers["Authorization"] = "Bearer key-of-a-client"
        answer = await client.post("/v1/completions", json=ASK)
        assert answer.json()["key"] == "Bearer key-of-the-fleet"  # the client's own stays here
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(model["id"], model["max_model_len"]) for model in listed] == [("toy", 512)]
        assert (await client.get("/v1/models/toy")).json() == listed[0]
        refused = await client.get("/v1/models/other")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        check_page((await client.get("/metrics")).text, fleet.all_urls)
        await fleet.workers[0].stop(5)
        page = (await client.get("/metrics")).text
        assert f'wf_gateway_metrics_read{{source="{fleet.all_urls[0]}"}} 0.0' in page

    run(fleet, work, keys=("key-of-a-client",))


def check_page(page: str, urls: list[str]) -> None:
    """No family twice; of each worker and of the gateway what is theirs."""
    families = list(text_string_to_metric_families(page))
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    of_workers = {
        (sample.name, sample.labels["worker"]): sample for sample in samples if "worker" in sample.labels
    }
    for url in urls:
        assert of_workers["wf_engine_running", url].value == 3
        assert of_workers["wf_gateway_worker_up", url].value == 1
        assert of_workers["wf_gateway_worker_restarts_total", url].value == 0
        assert of_workers["wf_http_requests_total", url].labels["exported_worker"] == "inner"
    own = [sample for sample in samples if "worker" not in sample.labels]
    health = {"endpoint": "/health", "status": "200"}
    assert [one.value for one in own if one.name == "wf_http_requests_total" and one.labels == health] == [1]
    assert [one.value for one in own if one.name in ("smg_x_total", "wf_gateway_router_up")] == [1, 1]


def test_a_server_by_url_that_leaves_and_comes_back(
    new_fleet: NewFleet, new_worker: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    other = new_worker()
    fleet = new_fleet(urls=(other.url,))

    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).json()["workers"] == {"up": 3, "of": 3}
        os.kill(other.pid, signal.SIGKILL)
        await until(lambda: not fleet.up()[other.url])
        assert (await client.get("/health")).json()["workers"] == {"up": 2, "of": 3}
        await other.start()
        await until(lambda: fleet.up()[other.url])

    run(fleet, work, beside=other)
    told = [record.getMessage() for record in caplog.records if record.name.endswith("gateway.fleet")]
    assert told == [
        f"{other.url} is down",
        f"{other.url} answers again",
    ]


def test_a_model_that_cannot_be_loaded_ends_it_with_the_workers_reason(new_fleet: NewFleet) -> None:
    fleet = new_fleet("bad")
    with pytest.raises(ChildFailedError, match=r"^bad is no model: take another$") as raised:
        run(fleet)
    assert raised.value.exit_code == 2
    assert not pids_of(fleet)


def test_a_server_with_another_key_is_named(new_fleet: NewFleet, new_worker: Callable[..., Worker]) -> None:
    other = new_worker(key="another-key")
    with pytest.raises(EngineError, match=rf"{other.url} refused .* by \$WF_WORKER_API_KEY"):
        run(new_fleet(urls=(other.url,)), beside=other)


def test_a_server_that_does_not_answer_is_named(new_fleet: NewFleet) -> None:
    fleet = new_fleet(urls=("http://127.0.0.1:9",))
    with pytest.raises(EngineError, match=r"no server answers at http://127\.0\.0\.1:9 "):
        run(fleet)
    assert not pids_of(fleet)
