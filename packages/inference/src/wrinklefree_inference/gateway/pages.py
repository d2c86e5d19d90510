"""The metrics of everybody behind the gateway: the router's, and each worker's with its URL as a label."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from wrinklefree_inference.addresses import trusts_environment
from wrinklefree_inference.gateway.fleet import Fleet
from wrinklefree_inference.upstreams import UNCOMPRESSED, bearer

_PAGE_S = 2.0
_PAGE_BYTES = 8 << 20


class FleetPage(Collector):
    """What is known of a fleet at one moment; made by `read`.

    Families that several have are one: samples with `worker` are that worker's, those without our own.
    """

    def __init__(self, fleet: Fleet, own: CollectorRegistry, pages: dict[str, list[Metric] | None]) -> None:
        self._fleet, self._own, self._pages = fleet, own, pages

    @classmethod
    async def read(cls, fleet: Fleet, own: CollectorRegistry) -> FleetPage:
        """Ask all at the same time; a page that does not come in time is told as missing."""
        sources = [fleet.router.metrics_url, *(f"{url}/metrics" for url in fleet.all_urls)]
        found = await asyncio.gather(*(_page(source, fleet.key) for source in sources))
        return cls(fleet, own, dict(zip(["", *fleet.all_urls], found, strict=True)))

    def collect(self) -> Iterator[Metric]:
        """All families, each once."""
        merged: dict[str, Metric] = {}
        ours = [*self._of_fleet(), *_families(generate_latest(self._own).decode())]
        for url, families in [("", ours), *self._pages.items()]:
            for family in families or ():
                whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                whole.samples += [_of_worker(sample, url) for sample in family.samples]
        yield from merged.values()

    def _of_fleet(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("wf_gateway_worker_up", "1 while it takes requests", labels=["worker"])
        for url, is_up in self._fleet.up().items():
            up.add_metric([url], int(is_up))
        restarts = CounterMetricFamily(
            "wf_gateway_worker_restarts", "Times that it was started again", labels=["worker"]
        )
        for worker in self._fleet.workers:
            restarts.add_metric([worker.url], worker.restarts)
        read = GaugeMetricFamily(
            "wf_gateway_metrics_read", "1 if its metrics are on this page", labels=["source"]
        )
        for url, families in self._pages.items():
            read.add_metric([url or "router"], int(families is not None))
        router = self._fleet.router
        yield from (up, restarts, read)
        yield GaugeMetricFamily("wf_gateway_router_up", "1 while it routes", value=int(router.is_up))
        yield CounterMetricFamily(
            "wf_gateway_router_restarts", "Times that it was started again", value=router.restarts
        )


def _of_worker(sample: Sample, url: str) -> Sample:
    """With the worker's URL; a label of that name (of a gateway behind) is renamed as Prometheus does."""
    if not url:
        return sample
    labels = {"exported_worker" if name == "worker" else name: text for name, text in sample.labels.items()}
    return sample._replace(labels=labels | {"worker": url})


async def _page(url: str, key: str) -> list[Metric] | None:
    """The families of a page in Prometheus' text format, None if there is no such page."""
    try:
        async with (
            asyncio.timeout(_PAGE_S),
            httpx.AsyncClient(
                headers=UNCOMPRESSED | bearer(key), trust_env=trusts_environment(url)
            ) as client,
            client.stream("GET", url) as answer,
        ):
            answer.raise_for_status()
            page = bytearray()
            async for piece in answer.aiter_raw():
                page += piece
                if len(page) > _PAGE_BYTES:
                    return None
        return _families(page.decode())
    except (httpx.HTTPError, TimeoutError, ValueError):
        return None


def _families(page: str) -> list[Metric]:
    """Without the creation times of counters, which would be families of their own."""
    found = text_string_to_metric_families(page)
    return [family for family in found if not family.name.endswith("_created")]
