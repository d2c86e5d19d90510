"""The application: routes, and the layers around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from wrinklefree_inference.http import (
    chat,
    completions,
    embeddings,
    errors,
    loads,
    models,
    ollama,
    responses_api,
)
from wrinklefree_inference.http.auth import ApiKeys
from wrinklefree_inference.http.boundary import Boundary, Refusals
from wrinklefree_inference.http.guard import Guard
from wrinklefree_inference.http.lifecycle import Lifecycle
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.ollama_bodies import OllamaError
from wrinklefree_inference.http.service import Service
from wrinklefree_inference.http.unknown_fields import HEADER, Strict
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
    service = Service(engine, answers, metrics)
    app = new_app("WrinkleFree", answers.is_strict)
    for kind in (chat, completions, embeddings, responses_api, ollama, loads):
        app.include_router(kind.router(service))
    app.include_router(models.router(service, lifecycle))
    return protect(app, http, keys, lifecycle, metrics)


def new_app(title: str, is_strict: bool = False) -> FastAPI:
    """A FastAPI application whose errors are OpenAI's, and which says so if it refuses unknown fields.

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
        schemas = page.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas |= errors.described(errors.ErrorResponse, OllamaError)
        if is_strict:
            for schema in schemas.values():
                if schema["title"] in _request_kinds(Strict):
                    schema["additionalProperties"] = False
        return page

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _request_kinds(kind: type[Strict]) -> set[str]:
    """Names of all kinds of objects in requests."""
    return {kind.__name__}.union(*(_request_kinds(each) for each in kind.__subclasses__()))


def protect(
    app: ASGIApp, http: HttpOptions, keys: ApiKeys, lifecycle: Lifecycle, metrics: Metrics
) -> HttpApp:
    """Put guard, CORS (if asked for) and boundary around an application.

    Refusals are made inside of CORS: without its headers a web page could not read them.
    """
    layers: ASGIApp = Refusals(Guard(app, keys, http, lifecycle))
    if http.allow_origins:
        layers = CORSMiddleware(
            layers,
            allow_origins=http.allow_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After", HEADER],
        )
    return HttpApp(Boundary(layers, metrics), lifecycle, metrics, http)
