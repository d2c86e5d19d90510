"""POST /v1/completions: the continuation of plain text or of token ids."""

from __future__ import annotations

import codecs
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from wrinklefree_inference.http.envelope import Envelope
from wrinklefree_inference.http.generation import Arrivals, Generation
from wrinklefree_inference.http.handlers import handler
from wrinklefree_inference.http.json_pieces import Items, encoded
from wrinklefree_inference.http.requests import CompletionRequest
from wrinklefree_inference.http.responses import (
    LOWEST_LOGPROB,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionUsage,
)
from wrinklefree_inference.http.service import (
    EVENT_STREAM,
    GENERATION_ERRORS,
    Service,
    respond,
)
from wrinklefree_inference.http.sse import unless_client_leaves
from wrinklefree_inference.native.request import Delta, FinishReason, TokenLogprob

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


@handler(CompletionRequest, Completion, {200: EVENT_STREAM, **GENERATION_ERRORS})
async def completions(service: Service, http: Request, body: CompletionRequest) -> Response:
    """The continuation of one or several prompts, whole or as server-sent events (`stream`)."""
    service.check_model(body.model)
    prompts = []
    given = _prompts(body)
    service.check_choices(body.num_drawn, len(given), "n" if body.best_of is None else "best_of")
    for prompt in given:
        ids = await unless_client_leaves(http.receive, _ids(service, http, prompt))
        prompts.append((ids, service.max_tokens(body.max_tokens, len(ids), "prompt", _DEFAULT_MAX_TOKENS)))
    is_ranked = body.num_drawn > body.num_choices
    logprobs = 0 if is_ranked and body.logprobs is None else body.logprobs
    generation = await service.generation(
        http, body, prompts, logprobs, "prompt", bool(body.echo), body.num_drawn
    )
    form = CompletionForm(body, len(prompts))
    return await respond(http, body, generation, form)


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    prompt = body.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(cast("list[str | list[int]]", prompt))


async def _ids(service: Service, http: Request, prompt: str | list[int]) -> Sequence[int]:
    return await service.tokenized(http, prompt) if isinstance(prompt, str) else prompt


class CompletionForm:
    """Chunks and the whole of a text completion; see `service.AnswerForm`.

    With `best_of` above `n` it gives out, best first, those of each prompt's answers whose tokens have the
    greatest log-probability on average; an empty answer is the last.
    """

    def __init__(self, body: CompletionRequest, num_prompts: int) -> None:
        self._envelope = Envelope("cmpl", "text_completion", body.model, body.includes_usage)
        self._num_choices, self._num_drawn = body.num_choices, body.num_drawn
        num_choices = num_prompts * body.num_drawn
        self._scores: list[list[float]] = [[] for _ in range(num_choices)]
        self._texts: list[list[str]] = [[] for _ in range(num_choices)]
        self._logprobs = [_Logprobs() if body.logprobs is not None else None for _ in range(num_choices)]
        self._whole_logprobs = [_WholeLogprobs() for _ in range(num_choices)]
        self._reasons: list[FinishReason] = ["stop"] * num_choices

    def add(self, batch: Arrivals) -> None:
        """Take what came."""
        for index, delta in batch:
            self._texts[index].append(delta.text)
            if delta.completion_tokens:  # else it is of the prompt
                self._scores[index] += [
                    token.logprob for token in delta.logprobs if token.logprob is not None
                ]
            logprobs = self._logprobs[index]
            if logprobs is not None:
                self._whole_logprobs[index].add(logprobs.of_delta(delta))
            self._reasons[index] = delta.finish_reason or self._reasons[index]

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The response body."""
        given_out = self._given_out()
        choices = [
            CompletionChoice(
                index=index,
                text="".join(self._texts[drawn]),
                logprobs=None,
                finish_reason=self._reasons[drawn],
            )
            for index, drawn in enumerate(given_out)
        ]
        body = Completion(
            id=self._envelope.id,
            created=self._envelope.created,
            model=self._envelope.model,
            choices=choices,
            usage=generation.usage,
        ).model_dump()
        for drawn, choice in zip(given_out, body["choices"], strict=True):
            if self._logprobs[drawn] is not None:
                choice["logprobs"] = self._whole_logprobs[drawn].fields()
        return body

    def _given_out(self) -> list[int]:
        """Numbers of the answers that are."""
        if self._num_drawn == self._num_choices:
            return list(range(len(self._texts)))
        firsts = range(0, len(self._texts), self._num_drawn)
        ranked = [sorted(range(i, i + self._num_drawn), key=self._mean, reverse=True) for i in firsts]
        return [drawn for answers in ranked for drawn in answers[: self._num_choices]]

    def _mean(self, drawn: int) -> float:
        """Log-probability for each token."""
        scores = self._scores[drawn]
        return sum(scores) / len(scores) if scores else -math.inf

    def chunks(self, batch: Arrivals) -> Iterator[dict[str, Any]]:
        """Text with, at last, the reason of the end."""
        for index, delta in batch:
            if not (delta.text or delta.logprobs or delta.finish_reason):
                continue
            logprobs = self._logprobs[index]
            choice = {
                "index": index,
                "text": delta.text,
                "logprobs": logprobs.of_delta(delta) if logprobs is not None else None,
                "finish_reason": delta.finish_reason,
            }
            yield self._envelope.chunk([choice])

    def usage_chunk(self, usage: CompletionUsage) -> dict[str, Any]:
        """No choices, only tokens."""
        return self._envelope.usage_chunk(usage)


class _Logprobs:
    """The parallel lists of one choice, of its tokens as they come.

    A token's offset is the number of whole characters before it: of a character that is spread over several
    tokens, each begins where the character does.
    """

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0
        self._is_answer = False

    def of_delta(self, delta: Delta) -> dict[str, Any]:
        """Of what came; a character that an echoed prompt leaves incomplete ends with it."""
        if delta.completion_tokens and not self._is_answer:
            self._num_chars += len(self._utf8.decode(b"", final=True))
            self._is_answer = True
        return self.of(delta.logprobs)

    def of(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """A `CompletionLogprobs` of the next tokens."""
        return {
            "tokens": [_name(token.text, token.bytes_) for token in tokens],
            "token_logprobs": [_value(token.logprob) for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": [self._offset(token) for token in tokens],
        }

    def _offset(self, token: TokenLogprob) -> int:
        offset = self._num_chars
        self._num_chars += len(self._utf8.decode(token.bytes_))
        return offset


class _WholeLogprobs:
    """The lists of all tokens of a choice, encoded as they come."""

    def __init__(self) -> None:
        self._lists: defaultdict[str, list[bytes]] = defaultdict(list)

    def add(self, lists: dict[str, Any]) -> None:
        for name, items in lists.items():
            self._lists[name] += map(encoded, items)

    def fields(self) -> dict[str, Items]:
        """By name."""
        return {name: Items(self._lists[name]) for name in CompletionLogprobs.model_fields}


def _value(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LOWEST_LOGPROB)


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """The most probable tokens and the one that is there; null where nothing is known."""
    if token.logprob is None:
        return None
    top = {_name(text, utf8): max(value, LOWEST_LOGPROB) for _, text, utf8, value in token.top}
    top.setdefault(_name(token.text, token.bytes_), max(token.logprob, LOWEST_LOGPROB))
    return top


def _name(text: str, utf8: bytes) -> str:
    """The token's text; if it is not a whole character, its bytes as OpenAI writes them (`bytes:\\xe2`)."""
    try:
        return utf8.decode("utf-8") if utf8 else text
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in utf8)
