"""Ollama's paths, as far as local tools need them: /api/chat, generate, embed, tags, ps, show, version, and
`GET /`, by which they look whether a server is there.

Forms of the same answers as OpenAI's, behind the same keys, limits and log. A stream is one JSON object a
line. The model is called by its id, with or without `:latest`; it is there already and stays, so nothing here
pulls, copies or removes one.
"""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from wrinklefree_inference.http.answer_rules import FieldNames
from wrinklefree_inference.http.chat import chat_generation
from wrinklefree_inference.http.embeddings import EmbeddingInputs, numbers
from wrinklefree_inference.http.errors import invalid, refusals
from wrinklefree_inference.http.handlers import handler
from wrinklefree_inference.http.json_pieces import Items, PiecewiseResponse
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
from wrinklefree_inference.http.ollama_form import OllamaForm, nanoseconds, timestamp
from wrinklefree_inference.http.ollama_messages import turns_of
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.http.service import (
    GENERATION_ERRORS,
    GENERATION_STATUSES,
    PLAIN_TEXT,
    Service,
    respond,
)

PROTOCOL_VERSION = "0.12.0"
"""Of the Ollama whose paths these are: tools ask for a version before they use what is newer."""
_ERRORS = refusals(GENERATION_STATUSES, OllamaError)
_LINES = {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}


@handler(OllamaChatRequest, OllamaChatAnswer, {200: _LINES, **_ERRORS})
async def chat(service: Service, http: Request, body: OllamaChatRequest) -> Response:
    """The assistant's next turn, a line for each piece unless `stream` is false."""
    form = OllamaForm("chat", body.model, http)
    if not body.messages:
        return _loaded(service, form)
    asked = body.as_chat(turns_of(body.messages), "messages", body.tools)
    generation, (answer,) = await chat_generation(service, http, asked, _names("messages"))
    return await respond(http, asked, generation, form.queued(answer), form)


@handler(OllamaGenerateRequest, OllamaGenerateAnswer, {200: _LINES, **_ERRORS})
async def generate(service: Service, http: Request, body: OllamaGenerateRequest) -> Response:
    """The answer to a prompt, a line for each piece unless `stream` is false."""
    form = OllamaForm("generate", body.model, http)
    if not body.prompt:
        return _loaded(service, form)
    asked = body.as_chat(body.messages(), "prompt")
    plain = body.prompt if body.raw else None
    generation, (answer,) = await chat_generation(service, http, asked, _names("prompt"), plain)
    return await respond(http, asked, generation, form.queued(answer), form)


@handler(OllamaEmbedRequest, OllamaEmbedAnswer, _ERRORS)
async def embed(service: Service, http: Request, body: OllamaEmbedRequest) -> Response:
    """Vectors of one or several texts: those of /v1/embeddings."""
    _check_model(service, body.model)
    inputs = EmbeddingInputs(service, body.input, body.dimensions)
    found = [numbers(vector) async for vector in inputs.vectors(service, http)]
    counts = {
        "total_duration": nanoseconds(record_of(http.scope).duration_s),
        "load_duration": 0,
        "prompt_eval_count": inputs.num_tokens,
    }
    return PiecewiseResponse({"model": body.model, "embeddings": Items(found)} | counts)


@handler(OllamaShowRequest, OllamaShown, _ERRORS)
async def show(service: Service, http: Request, body: OllamaShowRequest) -> Response:
    """What is known of the model."""
    name = body.model or body.name
    if name is None:
        raise invalid("model: give the model's name", "model")
    _check_model(service, name)
    return JSONResponse(_shown(service).model_dump())


@handler(responses={200: PLAIN_TEXT, **GENERATION_ERRORS})
async def here(service: Service, http: Request) -> Response:
    """What tools look for before they ask more."""
    return PlainTextResponse("Ollama is running")


@handler(content=OllamaVersion, responses=_ERRORS)
async def version(service: Service, http: Request) -> Response:
    """Of the Ollama whose paths these are."""
    return JSONResponse(OllamaVersion(version=PROTOCOL_VERSION).model_dump())


@handler(content=OllamaModels, responses=_ERRORS)
async def tags(service: Service, http: Request) -> Response:
    """The one model that is served, under each of its names."""
    return JSONResponse(_models(service).model_dump())


@handler(content=OllamaModels, responses=_ERRORS)
async def running(service: Service, http: Request) -> Response:
    """The same: it is in memory."""
    return JSONResponse(_models(service).model_dump())


def _names(messages: str) -> FieldNames:
    return FieldNames(messages, response_format="format", schema="format")


def _loaded(service: Service, form: OllamaForm) -> Response:
    _check_model(service, form.model)
    return JSONResponse(form.loaded())


def _check_model(service: Service, name: str) -> None:
    service.check_model(name.removesuffix(":latest"))


def _models(service: Service) -> OllamaModels:
    return OllamaModels(models=[_model(service, name) for name in service.model_names])


def _model(service: Service, id_: str) -> OllamaModel:
    engine, facts = service.engine, service.engine.facts
    name = id_ if ":" in id_ else f"{id_}:latest"
    known = f"{engine.model_id} {engine.created} {facts}"
    return OllamaModel(
        name=name,
        model=name,
        modified_at=timestamp(engine.created),
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
        capabilities=["completion"] if engine.facts.block_size else ["completion", "tools", "embedding"],
        modified_at=timestamp(engine.created),
    )


def _amount(number: int) -> str:
    """`134.5M`, `2.4B`."""
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"
