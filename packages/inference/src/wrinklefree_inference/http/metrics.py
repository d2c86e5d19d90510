"""Prometheus metrics of the server and its engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import Response

from wrinklefree_inference.http.record import RequestRecord
from wrinklefree_inference.native.request import EngineStats

_REQUEST_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST_TOKEN_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 20, 60)
_TOKEN_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class Metrics:
    """One registry for each server, so that several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        new: Any = {"registry": self.registry}
        self.requests = Counter("wf_http_requests", "Requests answered", ["endpoint", "status"], **new)
        self.in_progress = Gauge("wf_http_requests_in_progress", "Requests being answered", **new)
        self.clients_left = Counter("wf_clients_left", "Clients gone before their answer ended", **new)
        self.duration = Histogram(
            "wf_http_request_seconds", "Whole request", ["endpoint"], buckets=_REQUEST_S, **new
        )
        self.first_token = Histogram(
            "wf_first_token_seconds", "Request to first token", buckets=_FIRST_TOKEN_S, **new
        )
        self.between_tokens = Histogram(
            "wf_between_tokens_seconds", "One token of an answer to its next", buckets=_TOKEN_S, **new
        )
        self.prompt_tokens = Counter("wf_prompt_tokens", "Prompt tokens of all requests", **new)
        self.cached_tokens = Counter("wf_prompt_tokens_cached", "Of these, found in the prefix cache", **new)
        self.completion_tokens = Counter("wf_completion_tokens", "Tokens of all answers", **new)

    def observe(self, record: RequestRecord) -> None:
        """Count a request that has ended; the time to its first token is observed when that comes."""
        self.requests.labels(record.endpoint, str(record.status)).inc()
        self.duration.labels(record.endpoint).observe(record.duration_s)
        self.prompt_tokens.inc(record.prompt_tokens)
        self.cached_tokens.inc(record.cached_tokens)
        self.completion_tokens.inc(record.completion_tokens)
        if record.outcome == "client_left":
            self.clients_left.inc()

    def watch(self, stats: Callable[[], EngineStats]) -> None:
        """Report an engine's state with every page."""
        self.registry.register(_EngineCollector(stats))

    def response(self) -> Response:
        """The page in Prometheus' text format."""
        return page_of(self.registry)


def page_of(registry: CollectorRegistry) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


class _EngineCollector(Collector):
    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        now = self._stats()
        gauges = {
            "running": (now.running, "Requests being computed"),
            "waiting": (now.waiting, "Requests in the queue"),
            "queue_limit": (now.queue_limit, "Longest queue"),
            "kv_pages_used": (now.kv_pages_used, "Cache pages of running requests"),
            "kv_pages_cached": (now.kv_pages_cached, "Cache pages kept for a prefix to come again"),
            "kv_pages_limit": (now.kv_pages_total, "All cache pages"),
            "healthy": (int(now.healthy), "0 once the engine has failed for good"),
        }
        counters: dict[str, tuple[float, str]] = {
            "prompt_tokens": (now.prompt_tokens_total, "Prompt tokens computed or found in the cache"),
            "generated_tokens": (now.generated_tokens_total, "Tokens drawn"),
            "guessed_tokens": (now.guessed_tokens_total, "Tokens computed before they were drawn"),
            "accepted_tokens": (now.accepted_tokens_total, "Of these, drawn then"),
            "decoding_passes": (
                now.decoding_passes_total,
                "Forward passes that brought an answer on, once for each answer",
            ),
            "prefix_hit_tokens": (now.prefix_hit_tokens_total, "Prompt tokens found in the cache"),
            "requests": (now.requests_total, "Requests taken"),
            "finished": (now.finished_total, "Requests answered"),
            "cancelled": (now.cancelled_total, "Requests cancelled"),
            "preemptions": (now.preemptions_total, "Times that a request gave up its pages"),
            "restarts": (now.restarts_total, "Times that the engine began anew after a failed step"),
            "steps": (now.steps_total, "Decoder steps"),
            "step_seconds": (now.step_seconds_total, "Time in steps"),
            "forward_seconds": (now.forward_seconds_total, "The decoder's share of it"),
        }
        for name, (value, text) in gauges.items():
            yield GaugeMetricFamily(f"wf_engine_{name}", text, value=value)
        for name, (total, text) in counters.items():
            yield CounterMetricFamily(f"wf_engine_{name}", text, value=total)
