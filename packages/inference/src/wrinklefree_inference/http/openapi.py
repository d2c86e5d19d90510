"""The OpenAPI page of an application's operations, made when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from wrinklefree_inference.http.errors import ErrorResponse
from wrinklefree_inference.http.handlers import Handler, Operation
from wrinklefree_inference.http.ollama_bodies import OllamaError
from wrinklefree_inference.http.unknown_fields import Strict

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
Schemas = Mapping[tuple[Any, JsonSchemaMode], Mapping[str, Any]]


def page_of(title: str, operations: Sequence[Operation], is_strict: bool) -> dict[str, Any]:
    """The page; see `routes.new_app`."""
    kinds: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (ErrorResponse, "serialization"),
        (OllamaError, "serialization"),
    ]
    for operation in operations:
        handler = operation.handler
        kinds += [(handler.body, "validation")] if handler.body else []
        kinds += [(handler.content, "serialization")] if handler.content else []
    found, defined = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
    schemas: dict[str, Any] = defined["$defs"]
    strict_kinds = _request_kinds(Strict) if is_strict else set()
    for schema in schemas.values():
        for field in schema["properties"].values():
            if field.get("default", ...) is None:
                del field["default"]  # says no more than that it may be left out
        if schema["title"] in strict_kinds:
            schema["additionalProperties"] = False
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        methods = paths.setdefault(_PARAMETER.sub(r"{\1}", operation.path), {})
        methods.setdefault(operation.method.lower(), _described(operation, found))
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _described(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    handler = operation.handler
    told: dict[str, Any] = {"summary": handler.name, "operationId": operation.id}
    if handler.description:
        told["description"] = handler.description
    if names := _PARAMETER.findall(operation.path):
        told["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"title": name.title(), "type": "string"},
            }
            for name in names
        ]
    if handler.body:
        told["requestBody"] = {"content": _json(schemas[handler.body, "validation"]), "required": True}
    responses = {200: _success(handler, schemas), **handler.responses}
    responses[200] = {"description": "Successful Response", **responses[200], **_success(handler, schemas)}
    told["responses"] = {
        str(status): {"description": HTTPStatus(status).phrase, **response}
        for status, response in responses.items()
    }
    return told


def _success(handler: Handler, schemas: Schemas) -> dict[str, Any]:
    """Its content, in each of the forms that it may have."""
    forms = dict(handler.responses.get(200, {}).get("content", {}))
    if handler.content:
        forms |= _json(schemas[handler.content, "serialization"])
    return {"content": forms or _json({})}


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _request_kinds(kind: type[Strict]) -> set[str]:
    """Names of all kinds of objects in requests."""
    return {kind.__name__}.union(*(_request_kinds(each) for each in kind.__subclasses__()))
