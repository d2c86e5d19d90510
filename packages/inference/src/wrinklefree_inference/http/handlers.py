"""What answers a method of a path: a function with what the OpenAPI page says of it.

A handler may be named instead of given (`operations.py`): its module is imported when its path is first asked
for, so that a server does not start with the schemas of bodies that nobody sends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response


@dataclass(frozen=True)
class Handler:
    """What answers a path.

    Attributes:
        answer: From a request, and its body where it has one, to the response.
        name: In words.
        description: What it is for.
        body: What the request has, an object of JSON.
        content: What a success is; None where `responses` says it, or nothing does.
        responses: By status, as OpenAPI writes them, without their descriptions.
    """

    answer: Callable[..., Awaitable[Response]]
    name: str
    description: str
    body: type[BaseModel] | None = None
    content: type[BaseModel] | None = None
    responses: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


def handler(
    body: type[BaseModel] | None = None,
    content: type[BaseModel] | None = None,
    responses: Mapping[int, Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., Awaitable[Response]]], Handler]:
    """Makes a `Handler` of a function, whose docstring is the description."""

    def made(answer: Callable[..., Awaitable[Response]]) -> Handler:
        name = answer.__name__.replace("_", " ").title()
        return Handler(answer, name, answer.__doc__ or "", body, content, responses or {})

    return made


@dataclass(frozen=True)
class Operation:
    """A method of a path; `load` gives who answers it."""

    method: str
    path: str
    id: str
    load: Callable[[], Handler]

    @cached_property
    def handler(self) -> Handler:
        """Who answers it."""
        return self.load()

    async def ready(self) -> Handler:
        """The same for a request; the first one's is loaded in a thread, so that others have their turn."""
        if "handler" not in vars(self):
            await asyncio.to_thread(lambda: self.handler)
        return self.handler


def operation(method: str, path: str, handler: Handler) -> Operation:
    """One whose handler is there; its id is made of its words."""
    words = f"{handler.name} {path} {method}".lower()
    return Operation(method, path, re.sub(r"\W+", "_", words.replace(":path", "")), lambda: handler)
