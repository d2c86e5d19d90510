"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from wrinklefree_inference.http.answer_rules import AnswerRules, FieldNames
from wrinklefree_inference.http.call_results import check_results, of_messages
from wrinklefree_inference.http.chat_answers import ChatAnswer
from wrinklefree_inference.http.chat_requests import ChatRequest
from wrinklefree_inference.http.envelope import Envelope
from wrinklefree_inference.http.generation import Arrivals, Generation
from wrinklefree_inference.http.handlers import handler
from wrinklefree_inference.http.json_pieces import Items, encoded
from wrinklefree_inference.http.responses import (
    LOWEST_LOGPROB,
    ChatChoice,
    ChatCompletion,
    ChatFinishReason,
    CompletionUsage,
)
from wrinklefree_inference.http.service import (
    EVENT_STREAM,
    GENERATION_ERRORS,
    Service,
    respond,
)
from wrinklefree_inference.http.sse import unless_client_leaves
from wrinklefree_inference.native.request import Delta, TokenLogprob


@handler(ChatRequest, ChatCompletion, {200: EVENT_STREAM, **GENERATION_ERRORS})
async def chat_completions(service: Service, http: Request, body: ChatRequest) -> Response:
    """The assistant's next turn, whole or as server-sent events (`stream`)."""
    check_results(of_messages(body.messages))
    generation, answers = await chat_generation(service, http, body, FieldNames())
    return await respond(http, body, generation, ChatForm(body, answers))


async def chat_generation(
    service: Service, http: Request, body: ChatRequest, names: FieldNames, prompt: str | None = None
) -> tuple[Generation, list[ChatAnswer]]:
    """Submit a conversation.

    Args:
        names: What the client calls its fields.
        prompt: Plain text in the place of the conversation, without the model's template.

    Returns:
        What comes, and what makes content and calls of it: one for each answer.

    Raises:
        ApiError, EngineBusy, EngineError: Nothing was submitted.
    """
    service.check_model(body.model)
    service.check_choices(body.num_choices, 1)
    rules, param = AnswerRules.of(body, names), names.messages
    if prompt is None:
        messages = [message.for_template() for message in body.messages]
        tokenizing = service.tokenized_chat(http, messages, body.template_variables, rules.tools, param)
    else:
        tokenizing = service.tokenized(http, prompt, param)
    ids = await unless_client_leaves(http.receive, tokenizing)
    held_to = await unless_client_leaves(http.receive, service.held_to(http, rules))
    longest = service.max_tokens(body.max_completion_tokens or body.max_tokens, len(ids), param)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    generation = await service.generation(
        http, body, [(ids, longest)], logprobs, param, grammar=held_to.grammar
    )
    return generation, [ChatAnswer(held_to.form, rules.must_call) for _ in range(body.num_choices)]


class ChatForm:
    """Chunks and the whole of a chat completion; see `service.AnswerForm`."""

    def __init__(self, body: ChatRequest, answers: Sequence[ChatAnswer]) -> None:
        self._envelope = Envelope("chatcmpl", "chat.completion.chunk", body.model, body.includes_usage)
        self._has_logprobs = bool(body.logprobs)
        self._answers = answers
        self._logprobs: list[list[bytes]] = [[] for _ in answers]
        self._begun = [False] * len(answers)

    def add(self, batch: Arrivals) -> None:
        """Take what came."""
        for index, delta in batch:
            self._answers[index].add(delta)
            self._logprobs[index] += [encoded(_logprobs(token)) for token in delta.logprobs]

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The response body."""
        choices = [
            ChatChoice(index=index, message=answer.message(), logprobs=None, finish_reason=answer.reason)
            for index, answer in enumerate(self._answers)
        ]
        body = ChatCompletion(
            id=self._envelope.id,
            created=self._envelope.created,
            model=self._envelope.model,
            choices=choices,
            usage=generation.usage,
        ).model_dump()
        for choice in body["choices"]:
            if choice["message"]["tool_calls"] is None:
                del choice["message"]["tool_calls"]
        if self._has_logprobs:
            for choice, tokens in zip(body["choices"], self._logprobs, strict=True):
                choice["logprobs"] = {"content": Items(tokens), "refusal": None}
        return body

    def chunks(self, batch: Arrivals) -> Iterator[dict[str, Any]]:
        """Role first, then text and calls, then the reason of the end."""
        for index, delta in batch:
            if not self._begun[index]:
                self._begun[index] = True
                yield self._chunk(index, {"role": "assistant", "content": ""})
            changes = self._answers[index].changes(delta)
            if delta.logprobs and not changes:
                changes = [{"content": ""}]
            for number, change in enumerate(changes):
                yield self._chunk(index, change, None if number else delta)
            if delta.finish_reason:
                yield self._chunk(index, {}, reason=self._answers[index].reason)

    def usage_chunk(self, usage: CompletionUsage) -> dict[str, Any]:
        """No choices, only tokens."""
        return self._envelope.usage_chunk(usage)

    def _chunk(
        self,
        index: int,
        added: dict[str, Any],
        delta: Delta | None = None,
        reason: ChatFinishReason | None = None,
    ) -> dict[str, Any]:
        logprobs = None
        if self._has_logprobs and delta is not None:
            content = [_logprobs(token) for token in delta.logprobs]
            logprobs = {"content": content, "refusal": None}
        choice = {"index": index, "delta": added, "logprobs": logprobs, "finish_reason": reason}
        return self._envelope.chunk([choice])


def _logprobs(token: TokenLogprob) -> dict[str, Any]:
    """A `TokenLogprobs`."""
    assert token.logprob is not None  # no prompt is echoed here
    top = [_entry(text, value, utf8) for _, text, utf8, value in token.top]
    return _entry(token.text, token.logprob, token.bytes_) | {"top_logprobs": top}


def _entry(text: str, logprob: float, utf8: bytes) -> dict[str, Any]:
    """A `TopLogprob`."""
    return {"token": text, "logprob": max(logprob, LOWEST_LOGPROB), "bytes": list(utf8)}
