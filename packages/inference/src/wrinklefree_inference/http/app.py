"""The application: its operations, and the layers around them."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.types import ASGIApp

from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.boundary import Boundary, Refusals
from wrinklefree_inference.http.cors import Cors
from wrinklefree_inference.http.guard import Guard
from wrinklefree_inference.http.lifecycle import Lifecycle
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.operations import operations_of
from wrinklefree_inference.http.routes import new_app
from wrinklefree_inference.http.service import Service
from wrinklefree_inference.http.unknown_fields import HEADER
from wrinklefree_inference.native.interface import AsyncEngine
from wrinklefree_inference.options import AnswerOptions, HttpOptions


@dataclass(frozen=True)
class HttpApp:
    """An ASGI application and what its shutdown needs to know."""

    app: ASGIApp
    lifecycle: Lifecycle
    metrics: Metrics
    options: HttpOptions
    other_descriptors: int = 0
    """What its requests open besides their connections."""


NO_KEYS = ApiKeys()


def create_server(
    engine: AsyncEngine,
    http: HttpOptions = HttpOptions(),  # noqa: B008 - frozen
    answers: AnswerOptions = AnswerOptions(),  # noqa: B008 - frozen
    keys: ApiKeys = NO_KEYS,
) -> HttpApp:
    """The OpenAI-compatible server of one engine; without keys it answers to localhost alone."""
    metrics = Metrics()
    metrics.watch(engine.stats)
    lifecycle = Lifecycle(http.max_inflight)
    service = Service(engine, answers, metrics, lifecycle)
    app = new_app("WrinkleFree", operations_of(service), service.bodies, answers.is_strict)
    return protect(app, http, keys, lifecycle, metrics)


def protect(
    app: Starlette, http: HttpOptions, keys: ApiKeys, lifecycle: Lifecycle, metrics: Metrics
) -> HttpApp:
    """Put guard, CORS (if asked for) and boundary around an application.

    Refusals are made inside of CORS: without its headers a web page could not read them.
    """
    layers: ASGIApp = Refusals(Guard(app, keys, http, lifecycle))
    if http.allow_origins:
        layers = Cors(
            layers,
            allow_origins=http.allow_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After", HEADER],
        )
    return HttpApp(Boundary(layers, metrics), lifecycle, metrics, http)
