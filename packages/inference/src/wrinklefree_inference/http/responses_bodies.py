"""Bodies of /v1/responses, as OpenAI defines them: requests as far as a server can take them that keeps
nothing, and the response object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from wrinklefree_inference.http.call_results import CallOrResult
from wrinklefree_inference.http.requests import StreamOptions, Text, Unsupported
from wrinklefree_inference.http.responses_fields import (
    ResponseToolChoice,
    ResponseTools,
    TextOptions,
)
from wrinklefree_inference.http.responses_input import (
    MAX_ITEMS,
    FunctionCallItem,
    Item,
    MessageItem,
    Status,
    messages_of,
)
from wrinklefree_inference.http.unknown_fields import Strict

_MAX_METADATA = 16  # OpenAI's limit


def _is_not_kept(value: Any) -> Any:
    if value is not None:
        reason = "no response is stored here: send the items of the conversation in input"
        raise PydanticCustomError("unsupported", reason, {"code": "unsupported"})
    return value


def _is_small(value: dict[str, str] | None) -> dict[str, str] | None:
    if value is not None and len(value) > _MAX_METADATA:
        raise ValueError(f"at most {_MAX_METADATA} entries")
    return value


NotKept = Annotated[None, BeforeValidator(_is_not_kept)]


class ResponseRequest(Strict):
    """POST /v1/responses.

    `top_k`, `min_p`, `repetition_penalty`, `seed`, `ignore_eos`, `threshold` and `sub_block` are extensions.
    Nothing is stored, whatever `store` says. What chat completions have under another name, or this API has
    not, is refused instead of ignored. The last group is accepted without effect.
    """

    model: str
    input: Text | Annotated[list[Item], Field(fail_fast=True, min_length=1, max_length=MAX_ITEMS)]
    instructions: Text | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None
    metadata: Annotated[dict[str, str], AfterValidator(_is_small)] | None = None
    store: bool | None = None

    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    threshold: float | None = None
    sub_block: int | None = None

    previous_response_id: NotKept = None
    conversation: NotKept = None
    tools: ResponseTools | None = None
    tool_choice: ResponseToolChoice = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Unsupported = None
    include: Unsupported = None
    reasoning: Unsupported = None
    prompt: Unsupported = None
    context_management: Unsupported = None
    moderation: Unsupported = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    top_logprobs: Literal[0] | None = None
    max_tokens: Unsupported = None
    stop: Unsupported = None
    n: Unsupported = None
    messages: Unsupported = None
    response_format: Unsupported = None

    user: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None

    def conversation_messages(self) -> list[dict[str, Any]]:
        """The conversation as /v1/chat/completions has it."""
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*first, {"role": "user", "content": self.input}]
        return first + messages_of(self.input)

    def calls_and_results(self) -> Iterable[CallOrResult]:
        """Those of the conversation."""
        for i, item in enumerate(self.input if isinstance(self.input, list) else ()):
            if not isinstance(item, MessageItem):
                is_call = isinstance(item, FunctionCallItem)
                yield CallOrResult(f"input[{i}].call_id", item.call_id, is_call)


class OutputText(BaseModel):
    """The text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[None] = []
    logprobs: list[None] = []


class OutputMessage(BaseModel):
    """Text of a response's output."""

    id: str
    type: Literal["message"] = "message"
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputFunctionCall(BaseModel):
    """A call for the client to make; one that is `incomplete` was cut short within its arguments."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: Status
    call_id: str
    name: str
    arguments: str


class InputDetails(BaseModel):
    """Prompt tokens that did not have to be computed; there is no charge for writing the cache."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    """Of the tokens of the answer; there is no reasoning apart from it."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class ResponseError(BaseModel):
    """Why it failed."""

    code: str
    message: str


class IncompleteDetails(BaseModel):
    """Why it is incomplete: the limit of tokens, or the end of the context."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseObject(BaseModel):
    """Answer of /v1/responses. `store` is false: nothing is kept, and no id can be asked for again."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage | OutputFunctionCall]
    usage: ResponseUsage | None = None
    temperature: float
    top_p: float
    text: dict[str, Any]
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    truncation: Literal["disabled"] = "disabled"
    metadata: dict[str, str]
    store: Literal[False] = False
    background: Literal[False] = False
    previous_response_id: None = None
    user: str | None
