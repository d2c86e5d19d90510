"""What both generating endpoints share: from a checked body to a `Generation`, and on to a response."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from wf_formats.environment import num_cores
from wrinklefree_inference.http.answer_rules import AnswerRules, HeldTo
from wrinklefree_inference.http.boundary import log_unexpected
from wrinklefree_inference.http.errors import ApiError, api_error, invalid, refusals
from wrinklefree_inference.http.generation import Arrivals, Generation
from wrinklefree_inference.http.json_bounds import JsonBounds
from wrinklefree_inference.http.json_pieces import PiecewiseResponse, encoded
from wrinklefree_inference.http.lifecycle import Lifecycle
from wrinklefree_inference.http.metrics import Metrics
from wrinklefree_inference.http.record import record_of
from wrinklefree_inference.http.requests import SamplingFields
from wrinklefree_inference.http.responses import CompletionUsage
from wrinklefree_inference.http.sse import EventStream, unless_client_leaves
from wrinklefree_inference.http.strict_json import Bodies
from wrinklefree_inference.http.turns import Turns
from wrinklefree_inference.http.wire import CHUNKS, Wire
from wrinklefree_inference.native.grammar import GrammarError
from wrinklefree_inference.native.interface import AnswerGrammar, AsyncEngine
from wrinklefree_inference.native.request import GenerationRequest, RequestTooLong, SamplingParams
from wrinklefree_inference.options import AnswerOptions

_IN_LOOP_CHARS = 1_000  # 1 ms of tokenization, 7 ms if they are digits; longer texts go to a thread
_LONGEST_TOKEN_CHARS = 256  # a generous bound: the longest tokens in use are runs of 128 spaces

GENERATION_STATUSES = (400, 401, 403, 404, 408, 413, 415, 429, 500, 503)
GENERATION_ERRORS = refusals(GENERATION_STATUSES)
_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
EVENT_STREAM = {"content": {"text/event-stream": {"schema": _EVENT}}}
"""OpenAPI 3.1 has the schema describe each event."""
PLAIN_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


@dataclass(frozen=True)
class Service:
    """The engine and what surrounds it."""

    engine: AsyncEngine
    answers: AnswerOptions
    metrics: Metrics
    lifecycle: Lifecycle
    rendering: Turns = field(default_factory=lambda: Turns("rendering of chats"))
    """One at a time: templates share a process (`wf_formats.chat_template`)."""
    compiling: Turns = field(default_factory=lambda: Turns("reading of schemas", num_cores()))
    tokenizing: Turns = field(default_factory=lambda: Turns("cutting up of long texts", num_cores()))

    @cached_property
    def bodies(self) -> Bodies:
        """Reads what is asked."""
        bounds = JsonBounds.of(self.engine.context_tokens, self.answers.max_choices)
        return Bodies(bounds, self.answers.is_strict)

    @cached_property
    def model_names(self) -> tuple[str, ...]:
        """What the model may be called, its id first."""
        return tuple(dict.fromkeys((self.engine.model_id, *(self.answers.aliases or ()))))

    def check_model(self, name: str) -> None:
        """Raises ApiError 404 for a model that is not served."""
        if name not in self.model_names:
            served = " or ".join(map(repr, self.model_names))
            reason = f"the model {name[:100]!r} is not served here; {served} is"
            raise ApiError(404, reason, param="model", code="model_not_found")

    async def tokenized(self, http: Request, text: str, param: str = "prompt") -> list[int]:
        """Token ids of plain text, which the field `param` has; all but short ones are cut up in a thread.

        Raises:
            ApiError: 400 for text that the tokenizer refuses or that cannot fit, and for no tokens at all;
                429 for too many at a time.
        """
        self._check_length(len(text), param)
        tokenize = partial(self.engine.tokenize, text)
        with _refusals_of(param):
            if len(text) <= _IN_LOOP_CHARS:
                ids = tokenize()
            else:
                ids = await self.tokenizing.run(record_of(http.scope).client, tokenize)
        return _some(ids, param)

    async def tokenized_chat(
        self,
        http: Request,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] = (),
        param: str = "messages",
    ) -> list[int]:
        """Token ids of a conversation; always in a thread, since the template may take its time.

        Args:
            variables: What the template may know besides.

        Raises:
            ApiError: As `tokenized`.
        """
        self._check_length(sum(map(_num_chars, messages)) + sum(map(_num_chars, tools)), param)
        with _refusals_of(param):
            tokenize = partial(self.engine.tokenize_chat, messages, variables, tools)
            ids = await self.rendering.run(record_of(http.scope).client, tokenize)
        return _some(ids, param)

    async def held_to(self, http: Request, rules: AnswerRules) -> HeldTo:
        """What the rules of a request become for this model.

        Raises:
            ApiError: 400 for what no answer can be held to; 429 for too many at a time.
        """
        if rules.are_any:
            return HeldTo()
        client = record_of(http.scope).client
        form = None
        if rules.functions:
            with _refusals_of("tools"):
                form = await self.rendering.run(client, self.engine.tool_form)
        compile_it = partial(self.engine.compile, rules.grammar(form), rules.parts())
        try:
            return HeldTo(await self.compiling.run(client, compile_it), form)
        except GrammarError as error:
            reason = f"{error.field}: {error}" if error.field else str(error)
            raise invalid(reason, error.field, "unsupported_schema") from error

    def _check_length(self, num_chars: int, param: str) -> None:
        """Raises ApiError 400 for text that can never fit: it is not cut up at all."""
        if num_chars > self.engine.context_tokens * _LONGEST_TOKEN_CHARS:
            reason = (
                f"{num_chars} characters are more than the context of {self.engine.context_tokens} tokens"
            )
            raise invalid(reason, param, "context_length_exceeded")

    def check_choices(self, num: int, num_prompts: int, field: str = "n") -> None:
        """Raises ApiError 400 for more answers than the server gives at a time; `field` asks for `num`."""
        if num * num_prompts > self.answers.max_choices:
            asked = f"{num} x {num_prompts} answers asked for"
            reason = f"{field}: {asked}, at most {self.answers.max_choices} at a time"
            raise invalid(reason, field if num > 1 else "prompt")

    def max_tokens(
        self, asked: int | None, prompt_tokens: int, param: str, default: int | None = None
    ) -> int:
        """Longest answer: what was asked for, else `default`, at most what fits and the server allows.

        Args:
            asked: -1 is all that fits.

        Raises:
            ApiError: The prompt alone fills the context.
        """
        context = self.engine.context_tokens
        room, most = context - prompt_tokens, self.answers.max_output_tokens
        if room < (0 if asked == 0 else 1):
            reason = f"{prompt_tokens} prompt tokens and an answer exceed the context of {context} tokens"
            raise invalid(reason, param, "context_length_exceeded")
        wanted = default if asked is None else asked
        longest = min(room, most or room)
        return longest if wanted is None or wanted == -1 else min(wanted, longest)

    async def generation(
        self,
        http: Request,
        body: SamplingFields,
        prompts: Sequence[tuple[Sequence[int], int]],
        logprobs: int | None,
        param: str,
        echo: bool = False,
        num_drawn: int | None = None,
        grammar: AnswerGrammar | None = None,
    ) -> Generation:
        """Submit `n` requests for each (prompt ids, max_tokens), which the field `param` has become.

        Args:
            echo: Each answer begins with its prompt.
            num_drawn: In the place of `n`.
            grammar: What each answer is held to.

        Raises:
            ApiError, EngineBusy, EngineError: Nothing was submitted.
        """
        num = num_drawn or body.num_choices
        record = record_of(http.scope)
        record.is_stream = bool(body.stream)
        requests = [
            GenerationRequest(
                prompt_ids=tuple(ids),
                sampling=_sampling(body, longest, logprobs, number, echo),
                id=record.request_id
                if num * len(prompts) == 1
                else f"{record.request_id}-{i * num + number}",
                client=record.client,
                constraint=None if grammar is None else grammar.new(),
            )
            for i, (ids, longest) in enumerate(prompts)
            for number in range(num)
        ]
        generation = Generation(self.engine, requests, num, record, self.metrics, param)
        await generation.start()
        return generation


@contextmanager
def _refusals_of(param: str) -> Iterator[None]:
    """What the tokenizer or the template refuses is a 400."""
    try:
        yield
    except RequestTooLong as error:
        raise invalid(f"{param}: {error}", param, "context_length_exceeded") from error
    except ValueError as error:
        raise invalid(f"{param}: {error}", param) from error


def _num_chars(message: Mapping[str, Any]) -> int:
    """Of a message or a tool, about."""
    is_plain = message.keys() == {"role", "content"}
    return len(message["content"]) if is_plain else len(encoded(message))


def _some(ids: Sequence[int], param: str) -> list[int]:
    if not ids:
        raise invalid(f"{param} must have at least one token", param)
    return list(ids)


class AnswerForm(Protocol):
    """How one endpoint words its answers."""

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The response body, once all was added; see `json_pieces`."""

    def add(self, batch: Arrivals) -> None:
        """Take what came, for `whole`."""

    def chunks(self, batch: Arrivals) -> Iterable[dict[str, Any]]:
        """The same as events of a stream."""

    def usage_chunk(self, usage: CompletionUsage) -> dict[str, Any]:
        """The event that closes a stream with `include_usage`."""


async def respond(
    http: Request, body: SamplingFields, generation: Generation, form: AnswerForm, wire: Wire = CHUNKS
) -> Response:
    """The answer, streamed or not; `wire` writes a stream's events."""
    if body.stream:
        frames = _frames(http, body, generation, form, wire)
        return EventStream(frames, generation.aclose, media_type=wire.media_type)

    async def collect() -> None:
        async for batch in generation.arrivals():
            form.add(batch)

    try:
        await unless_client_leaves(http.receive, collect())
    finally:
        await generation.aclose()  # the reading may have been cancelled before it began
    return PiecewiseResponse(form.whole(generation))


async def _frames(
    http: Request, body: SamplingFields, generation: Generation, form: AnswerForm, wire: Wire
) -> AsyncGenerator[Sequence[bytes], None]:
    try:
        if opening := wire.opening():
            yield [opening]
        async for batch in generation.arrivals():
            yield [wire.frame(chunk) for chunk in form.chunks(batch)] if batch else [wire.keep_alive()]
    except Exception as error:  # noqa: BLE001 - the status is sent already: an event tells what happened
        told = api_error(error)
        record = record_of(http.scope)
        record.outcome = "error"
        if told.code == "internal_error":
            log_unexpected(error, record)
        yield [wire.failure(told)]
        return
    ending = [wire.frame(form.usage_chunk(generation.usage))] if body.includes_usage else []
    yield [*ending, wire.end]


def _sampling(
    body: SamplingFields, max_tokens: int, logprobs: int | None, number: int, echo: bool
) -> SamplingParams:
    given = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": None if body.top_k == -1 else body.top_k,
        "min_p": body.min_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "ignore_eos": body.ignore_eos,
        "threshold": body.threshold,
        "sub_block": body.sub_block,
        "seed": None if body.seed is None else body.seed + number,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    chosen |= {"logit_bias": body.biases, "stop": body.stops}
    return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, echo=echo, **chosen)
