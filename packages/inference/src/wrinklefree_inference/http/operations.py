"""The operations of the server of an engine: a table of what answers, by modules that are imported then."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib import import_module

from wrinklefree_inference.http.handlers import Handler, Operation
from wrinklefree_inference.http.service import Service

_TABLE = (
    ("POST", "/v1/chat/completions", "createChatCompletion", "chat:chat_completions"),
    ("POST", "/v1/completions", "createCompletion", "completions:completions"),
    ("POST", "/v1/embeddings", "createEmbedding", "embeddings:embeddings"),
    ("POST", "/v1/responses", "createResponse", "responses_api:responses"),
    ("POST", "/api/chat", "ollamaChat", "ollama:chat"),
    ("POST", "/api/generate", "ollamaGenerate", "ollama:generate"),
    ("POST", "/api/embed", "ollamaEmbed", "ollama:embed"),
    ("POST", "/api/show", "ollamaShow", "ollama:show"),
    ("GET", "/", "ollamaHere", "ollama:here"),
    ("GET", "/api/version", "ollamaVersion", "ollama:version"),
    ("GET", "/api/tags", "ollamaTags", "ollama:tags"),
    ("GET", "/api/ps", "ollamaPs", "ollama:running"),
    ("GET", "/v1/loads", "loads", "loads:loads"),
    ("GET", "/v1/models", "listModels", "models:models"),
    ("GET", "/v1/models/{model:path}", "retrieveModel", "models:model"),
    ("GET", "/health", "health", "models:health"),
    ("GET", "/metrics", "metrics", "models:metrics"),
)
"""Method, path, id, and the handler as module:name; it gets the service first."""


def operations_of(service: Service) -> list[Operation]:
    """All of them."""
    return [
        Operation(method, path, id_, partial(_loaded, place, service)) for method, path, id_, place in _TABLE
    ]


def _loaded(place: str, service: Service) -> Handler:
    module, _, name = place.partition(":")
    handler: Handler = getattr(import_module(f"wrinklefree_inference.http.{module}"), name)
    return replace(handler, answer=partial(handler.answer, service))
