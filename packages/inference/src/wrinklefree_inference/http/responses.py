"""Bodies of responses, as OpenAI defines them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from wrinklefree_inference.native.request import FinishReason

ChatFinishReason = FinishReason | Literal["tool_calls"]

LOWEST_LOGPROB = -9999.0
"""JSON has no minus infinity; OpenAI's number."""


class PromptDetails(BaseModel):
    """Prompt tokens that did not have to be computed."""

    cached_tokens: int


class CompletionDetails(BaseModel):
    """Tokens that were guessed and computed before they were drawn; of the answer are the accepted ones.

    `decoding_passes` is an extension: forward passes that brought the answers on. Completion tokens divided
    by it are tokens per pass.
    """

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    decoding_passes: int


class CompletionUsage(BaseModel):
    """Tokens of a request: each prompt counts once, whatever `n`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class TopLogprob(BaseModel):
    """A token that might have been, with its natural log-probability under the model itself."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TopLogprob):
    """The token that was drawn."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """One entry for each token of the answer."""

    content: list[TokenLogprobs]
    refusal: None = None


class CallOfFunction(BaseModel):
    """A function, with arguments as a text of JSON that fits its schema (unless the answer was cut short)."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call for the client to make."""

    id: str
    type: Literal["function"] = "function"
    function: CallOfFunction


class AssistantMessage(BaseModel):
    """The answer; null beside calls where there is no text, and no `tool_calls` where there are none."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """One of `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason


class ChatCompletion(BaseModel):
    """Answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage


class CompletionLogprobs(BaseModel):
    """Parallel lists, one entry for each token; `text_offset` counts characters of the choice's `text`.

    With `echo` the prompt's tokens come first. Nothing is known of the very first one: its entries are null.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """Continuation number `index % n` of prompt number `index // n`."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class Completion(BaseModel):
    """Answer of /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class Model(BaseModel):
    """A model that can be named in requests; `max_model_len` is its context in tokens."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "wrinklefree"
    max_model_len: int


class ModelList(BaseModel):
    """Answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """Answer of /health: 200 if `ok`, 503 otherwise.

    `restarts` counts how often the engine has begun anew after a failed step; `last_error` is the kind of the
    latest failure, whose details are in the server's log. Both are there after the first one alone.
    """

    status: Literal["ok", "draining", "failed"]
    restarts: int = 0
    last_error: str | None = None
