"""POST /v1/embeddings: vectors of texts or of token ids.

What they are stands in `native/embedding.py`. With `dimensions` a vector is cut off there and made to have
length 1 again; no model here was trained for that (Matryoshka), so it costs quality.

The inputs of a request are given to the engine a group at a time, as many as answers may be asked for, so
that whoever sends 2,048 takes no more places than others do. Groups become smaller where the queue is nearly
full; a request that has begun is not refused half way, it waits for a place instead.
"""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from wrinklefree_inference.http.errors import ApiError, invalid
from wrinklefree_inference.http.generation import Generation
from wrinklefree_inference.http.handlers import handler
from wrinklefree_inference.http.json_pieces import Items, PiecewiseResponse, encoded
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.http.requests import Text, TokenIds
from wrinklefree_inference.http.service import GENERATION_ERRORS, Service
from wrinklefree_inference.http.sse import unless_client_leaves
from wrinklefree_inference.http.unknown_fields import Strict
from wrinklefree_inference.native.embedding import normalized
from wrinklefree_inference.native.request import EngineBusy, GenerationRequest, SamplingParams

MAX_INPUTS = 2048
MAX_TOKENS = 300_000
"""Of all inputs of a request; both numbers are OpenAI's."""
_LONGEST_WAIT_S = 1.0
_DRAWN_NOTHING = SamplingParams()


class EmbeddingRequest(Strict):
    """POST /v1/embeddings. `user` has no effect."""

    model: str
    input: (
        Text
        | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class Embedding(BaseModel):
    """Of one input; in base64 it is little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """Answer of /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@handler(EmbeddingRequest, Embeddings, GENERATION_ERRORS)
async def embeddings(service: Service, http: Request, body: EmbeddingRequest) -> Response:
    """A vector of length 1 for each text: the mean of its tokens' last hidden states."""
    service.check_model(body.model)
    is_base64 = body.encoding_format == "base64"
    data: list[bytes] = []
    inputs = EmbeddingInputs(service, body.input, body.dimensions)
    async for vector in inputs.vectors(service, http):
        value = encoded(base64.b64encode(vector).decode()) if is_base64 else numbers(vector)
        data.append(b'{"object":"embedding","index":%d,"embedding":%b}' % (len(data), value))
    usage = {"prompt_tokens": inputs.num_tokens, "total_tokens": inputs.num_tokens}
    return PiecewiseResponse({"object": "list", "data": Items(data), "model": body.model, "usage": usage})


def numbers(vector: bytes) -> bytes:
    """A JSON list of the fewest digits that say each float32."""
    return b"[" + ",".join(np.frombuffer(vector, "<f4").astype(str)).encode() + b"]"


class EmbeddingInputs:
    """The field `input` of one request.

    Args:
        given: A text, ids, or a list of either.
        dimensions: Numbers of a vector, of its beginning; None: all.

    Raises:
        ApiError: 400 for more dimensions than the model has.
    """

    def __init__(self, service: Service, given: Any, dimensions: int | None) -> None:
        size = service.engine.embedding_size
        if dimensions is not None and dimensions > size:
            raise invalid(f"dimensions: at most {size}, this model's, got {dimensions}", "dimensions")
        is_one = isinstance(given, str) or isinstance(given[0], int)
        self._inputs = [given] if is_one else cast("list[str | list[int]]", given)
        self._dimensions = None if dimensions == size else dimensions
        self.num_tokens = 0

    async def vectors(self, service: Service, http: Request) -> AsyncIterator[bytes]:
        """float32 of each input, in order.

        Raises:
            ApiError: 400 for an input that is too long, has no tokens or ids that the model does not know.
            EngineBusy: Nothing was computed.
            EngineError: The engine broke.
            ClientLeft: It did.
        """
        prompts = await unless_client_leaves(http.receive, self._tokenized(service, http))
        record, most, first = record_of(http.scope), service.answers.max_choices, 0
        try:
            while first < len(prompts):
                group = self._requests(http, prompts, first, most)
                try:
                    vectors = await unless_client_leaves(http.receive, self._embedded(service, http, group))
                except EngineBusy as error:
                    if len(group) > 1:
                        most = len(group) // 2
                    elif first:
                        wait_s = min(error.retry_after_s, _LONGEST_WAIT_S)
                        await unless_client_leaves(http.receive, asyncio.sleep(wait_s))
                    else:
                        raise
                    continue
                for vector in vectors:
                    yield vector
                first += len(group)
        finally:
            record.prompt_tokens = sum(map(len, prompts[:first]))

    @staticmethod
    def _requests(
        http: Request, prompts: Sequence[array[int]], first: int, most: int
    ) -> list[GenerationRequest]:
        record = record_of(http.scope)
        return [
            GenerationRequest(
                tuple(ids), _DRAWN_NOTHING, f"{record.request_id}-{number}", record.client, embeds=True
            )
            for number, ids in enumerate(prompts[first : first + most], first)
        ]

    async def _tokenized(self, service: Service, http: Request) -> list[array[int]]:
        prompts = []
        for position, given in enumerate(self._inputs):
            param = "input" if len(self._inputs) == 1 else f"input[{position}]"
            ids = await service.tokenized(http, given, param) if isinstance(given, str) else given
            if len(ids) > service.engine.context_tokens:
                reason = (
                    f"{len(ids)} tokens exceed the context of {service.engine.context_tokens}: shorten it"
                )
                raise invalid(f"{param}: {reason}", param, "context_length_exceeded")
            self.num_tokens += len(ids)
            if self.num_tokens > MAX_TOKENS:
                reason = f"more than {MAX_TOKENS} tokens in all inputs together: send fewer at a time"
                raise invalid(f"input: {reason}", "input", "too_many_tokens")
            prompts.append(array("i", ids))
            await asyncio.sleep(0)  # short texts are cut up in the loop
        return prompts

    async def _embedded(
        self, service: Service, http: Request, requests: Sequence[GenerationRequest]
    ) -> list[bytes]:
        record = record_of(http.scope)
        generation = Generation(service.engine, requests, 1, record, service.metrics, "input")
        found: dict[int, bytes] = {}
        try:
            await generation.start()
            async for batch in generation.arrivals():
                found |= {index: self._cut(delta.embedding) for index, delta in batch}
        finally:
            await generation.aclose()
        return [found[index] for index in range(len(requests))]

    def _cut(self, vector: bytes) -> bytes:
        if self._dimensions is None:
            return vector
        cut = normalized(np.frombuffer(vector, "<f4")[: self._dimensions])
        if cut is None:
            raise ApiError(500, f"the first {self._dimensions} numbers are all zero", code="answer_failed")
        return cut
