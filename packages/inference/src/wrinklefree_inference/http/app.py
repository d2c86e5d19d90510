"""The application: routes, and the layers around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from wrinklefree_inference.http import chat, completions, errors, models
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.boundary import Boundary
from wrinklefree_inference.http.guard import Guard
from wrinklefree_inference.http.lifecycle import Lifecycle
from wrinklefree_inference.http.limits import Limits
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.service import Service
from wrinklefree_inference.native.request import AsyncEngine


@dataclass(frozen=True)
class HttpOptions:
    """Attributes:
    keys: Who may use the server.
    allow_origins: Web pages that may use it from a browser (`https://host`); none by default.
    """

    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: Limits = field(default_factory=Limits)
    allow_origins: Sequence[str] = ()


@dataclass(frozen=True)
class Server:
    """An ASGI application and what its shutdown needs to know."""

    app: ASGIApp
    lifecycle: Lifecycle
    metrics: Metrics


def create_server(engine: AsyncEngine, options: HttpOptions | None = None) -> Server:
    """The OpenAI-compatible server of one engine."""
    options = options or HttpOptions()
    metrics = Metrics()
    metrics.watch(engine.stats)
    lifecycle = Lifecycle(options.limits.inflight)
    service = Service(engine, options.limits, metrics)
    app = new_app("WrinkleFree")
    for routes in (chat.router(service), completions.router(service), models.router(service, lifecycle)):
        app.include_router(routes)
    return protect(app, options, lifecycle, metrics)


def new_app(title: str) -> FastAPI:
    """A FastAPI application whose errors are OpenAI's.

    Its page is /openapi.json; there is no /docs, which would load scripts from elsewhere.
    """
    app = FastAPI(title=title, version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    errors.install(app)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        page = describe()
        for path in page["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's own form of errors, never sent
        for name in ("HTTPValidationError", "ValidationError"):
            page.get("components", {}).get("schemas", {}).pop(name, None)
        return page

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def protect(app: ASGIApp, options: HttpOptions, lifecycle: Lifecycle, metrics: Metrics) -> Server:
    """Put guard, CORS (if asked for) and boundary around an application."""
    layers: ASGIApp = Guard(app, options.keys, options.limits, lifecycle)
    if options.allow_origins:
        layers = CORSMiddleware(
            layers,
            allow_origins=list(options.allow_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return Server(Boundary(layers, metrics), lifecycle, metrics)
