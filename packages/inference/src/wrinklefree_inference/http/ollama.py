"""Ollama's paths, as far as local tools need them: /api/chat, generate, embed, tags, ps, show, version, and
`GET /`, by which they look whether a server is there.

Forms of the same answers as OpenAI's, behind the same keys, limits and log. A stream is one JSON object a
line. The model is called by its id, with or without `:latest`; it is there already and stays, so nothing here
pulls, copies or removes one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from wrinklefree_inference.http.chat import chat_generation
from wrinklefree_inference.http.embeddings import EmbeddingInputs, numbers
from wrinklefree_inference.http.errors import ApiError, invalid, refusals
from wrinklefree_inference.http.generation import Arrivals, Generation
from wrinklefree_inference.http.json_pieces import Items, PiecewiseResponse, encoded
from wrinklefree_inference.http.ollama_bodies import (
    OllamaChatAnswer,
    OllamaChatRequest,
    OllamaDetails,
    OllamaEmbedAnswer,
    OllamaEmbedRequest,
    OllamaError,
    OllamaGenerateAnswer,
    OllamaGenerateRequest,
    OllamaModel,
    OllamaModels,
    OllamaShown,
    OllamaShowRequest,
    OllamaVersion,
)
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.http.responses import CompletionUsage
from wrinklefree_inference.http.service import GENERATION_ERRORS, GENERATION_STATUSES, Service, respond
from wrinklefree_inference.http.sse import unless_client_leaves
from wrinklefree_inference.http.strict_json import strict_router
from wrinklefree_inference.native.request import FinishReason

PROTOCOL_VERSION = "0.12.0"
"""Of the Ollama whose paths these are: tools ask for a version before they use what is newer."""
_ERRORS = refusals(GENERATION_STATUSES, OllamaError)
_LINES = {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
Kind = Literal["chat", "generate"]


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = strict_router(service.bodies)

    @routes.post(
        "/api/chat",
        operation_id="ollamaChat",
        response_model=OllamaChatAnswer,
        responses={200: _LINES, **_ERRORS},
    )
    async def chat(body: OllamaChatRequest, http: Request) -> Response:
        """The assistant's next turn, a line for each piece unless `stream` is false."""
        form = OllamaForm("chat", body.model, http)
        if not body.messages:
            return _loaded(service, form)
        turns = [{"role": turn.role, "content": turn.content} for turn in body.messages]
        asked = body.as_chat(turns, "messages")
        generation, _ = await chat_generation(service, http, asked, "messages")
        return await respond(http, asked, generation, form.queued(), form)

    @routes.post(
        "/api/generate",
        operation_id="ollamaGenerate",
        response_model=OllamaGenerateAnswer,
        responses={200: _LINES, **_ERRORS},
    )
    async def generate(body: OllamaGenerateRequest, http: Request) -> Response:
        """The answer to a prompt, a line for each piece unless `stream` is false."""
        form = OllamaForm("generate", body.model, http)
        if not body.prompt:
            return _loaded(service, form)
        asked = body.as_chat(body.messages(), "prompt")
        if body.raw:
            service.check_model(asked.model)
            ids = await unless_client_leaves(http.receive, service.tokenized(http, body.prompt))
            longest = service.max_tokens(asked.max_completion_tokens, len(ids), "prompt")
            generation = await service.generation(http, asked, [(ids, longest)], None, "prompt")
        else:
            generation, _ = await chat_generation(service, http, asked, "prompt")
        return await respond(http, asked, generation, form.queued(), form)

    @routes.post(
        "/api/embed", operation_id="ollamaEmbed", response_model=OllamaEmbedAnswer, responses=_ERRORS
    )
    async def embed(body: OllamaEmbedRequest, http: Request) -> Response:
        """Vectors of one or several texts: those of /v1/embeddings."""
        _check_model(service, body.model)
        inputs = EmbeddingInputs(service, body.input, body.dimensions)
        found = [numbers(vector) async for vector in inputs.vectors(service, http)]
        counts = {
            "total_duration": _ns(record_of(http.scope).duration_s),
            "load_duration": 0,
            "prompt_eval_count": inputs.num_tokens,
        }
        return PiecewiseResponse({"model": body.model, "embeddings": Items(found)} | counts)

    @routes.post("/api/show", operation_id="ollamaShow", response_model=OllamaShown, responses=_ERRORS)
    async def show(body: OllamaShowRequest) -> Response:
        """What is known of the model."""
        name = body.model or body.name
        if name is None:
            raise invalid("model: give the model's name", "model")
        _check_model(service, name)
        return JSONResponse(_shown(service).model_dump())

    routes.include_router(_plain_router(service))
    return routes


def _plain_router(service: Service) -> APIRouter:
    """Routes without a body."""
    routes = APIRouter()

    @routes.get("/", operation_id="ollamaHere", response_class=PlainTextResponse, responses=GENERATION_ERRORS)
    async def here() -> str:
        """What tools look for before they ask more."""
        return "Ollama is running"

    @routes.get("/api/version", operation_id="ollamaVersion", responses=_ERRORS)
    async def version() -> OllamaVersion:
        """Of the Ollama whose paths these are."""
        return OllamaVersion(version=PROTOCOL_VERSION)

    @routes.get("/api/tags", operation_id="ollamaTags", responses=_ERRORS)
    async def tags() -> OllamaModels:
        """The one model that is served, under each of its names."""
        return OllamaModels(models=_models(service))

    @routes.get("/api/ps", operation_id="ollamaPs", responses=_ERRORS)
    async def running() -> OllamaModels:
        """The same: it is in memory."""
        return OllamaModels(models=_models(service))

    return routes


class OllamaForm:
    """The lines of an answer, or the whole; also the `Wire` that writes them."""

    media_type = "application/x-ndjson"
    end = b""

    def __init__(self, kind: Kind, model: str, http: Request) -> None:
        self.model = model
        self._kind, self._record = kind, record_of(http.scope)
        self._texts: list[str] = []
        self._reason: FinishReason = "stop"
        self._queued_s = time.perf_counter()
        self._first_s: float | None = None

    def queued(self) -> OllamaForm:
        """The same, once the request has been given to the engine."""
        self._queued_s = time.perf_counter()
        return self

    def add(self, batch: Arrivals) -> None:
        """Take what came."""
        for _, delta in batch:
            self._note(delta.finish_reason)
            self._texts.append(delta.text)

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The response body."""
        return self._line("".join(self._texts)) | self._counts(generation.usage)

    def chunks(self, batch: Arrivals) -> Iterator[dict[str, Any]]:
        """A line for each piece of text."""
        for _, delta in batch:
            self._note(delta.finish_reason)
            if delta.text:
                yield self._line(delta.text)

    def usage_chunk(self, usage: CompletionUsage) -> dict[str, Any]:
        """The last line."""
        return self._line("") | self._counts(usage)

    def loaded(self) -> dict[str, Any]:
        """The answer to a request that asks nothing."""
        return self._line("") | {"done": True, "done_reason": "load"}

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def frame(self, event: Mapping[str, Any]) -> bytes:
        """A line."""
        return encoded(event) + b"\n"

    def keep_alive(self) -> bytes:
        """A line without text: clients read each line as JSON."""
        return self.frame(self._line(""))

    def failure(self, error: ApiError) -> bytes:
        """A line with the error, which clients raise."""
        return self.frame(error.body_for("/api/"))

    def _note(self, reason: FinishReason | None) -> None:
        self._first_s = self._first_s or time.perf_counter()
        self._reason = reason or self._reason

    def _line(self, text: str) -> dict[str, Any]:
        line: dict[str, Any] = {"model": self.model, "created_at": _timestamp(time.time()), "done": False}
        if self._kind == "chat":
            return line | {"message": {"role": "assistant", "content": text}}
        return line | {"response": text}

    def _counts(self, usage: CompletionUsage) -> dict[str, Any]:
        now_s = time.perf_counter()
        first_s = self._first_s or now_s
        return {
            "done": True,
            "done_reason": self._reason,
            "total_duration": _ns(self._record.duration_s),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _ns(first_s - self._queued_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": _ns(now_s - first_s),
        }


def _loaded(service: Service, form: OllamaForm) -> Response:
    _check_model(service, form.model)
    return JSONResponse(form.loaded())


def _check_model(service: Service, name: str) -> None:
    service.check_model(name.removesuffix(":latest"))


def _models(service: Service) -> list[OllamaModel]:
    return [_model(service, name) for name in service.model_names]


def _model(service: Service, id_: str) -> OllamaModel:
    engine, facts = service.engine, service.engine.facts
    name = id_ if ":" in id_ else f"{id_}:latest"
    known = f"{engine.model_id} {engine.created} {facts}"
    return OllamaModel(
        name=name,
        model=name,
        modified_at=_timestamp(engine.created),
        size=facts.size_bytes or 0,
        digest=hashlib.sha256(known.encode()).hexdigest(),
        details=_details(service),
    )


def _details(service: Service) -> OllamaDetails:
    facts = service.engine.facts
    return OllamaDetails(
        parameter_size="" if facts.num_parameters is None else _amount(facts.num_parameters),
        quantization_level=facts.weight_type or "",
    )


def _shown(service: Service) -> OllamaShown:
    engine = service.engine
    info = {
        "general.architecture": "wrinklefree",
        "general.parameter_count": engine.facts.num_parameters,
        "wrinklefree.context_length": engine.context_tokens,
        "wrinklefree.embedding_length": engine.embedding_size,
    }
    return OllamaShown(
        details=_details(service),
        model_info=info,
        capabilities=["completion", "embedding"],
        modified_at=_timestamp(engine.created),
    )


def _amount(number: int) -> str:
    """`134.5M`, `2.4B`."""
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


def _timestamp(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
