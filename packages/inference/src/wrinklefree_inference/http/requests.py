"""Bodies of requests, as OpenAI defines them, with a few fields more for sampling.

Everything is strict: an unknown field, a number as a string, or a feature that this server does not have
gives an error that names the field. A list stops at its first bad item and an object at its first unknown
name, because pydantic would otherwise describe each of a million.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from wrinklefree_inference.native.request import MAX_STOP_CHARS
from wrinklefree_inference.sampling_bounds import API_BOUNDS

_MAX_STOPS = 4
_MAX_MESSAGES = 2048  # OpenAI's limit


def _is_absent(value: Any) -> Any:
    if value not in (None, [], {}):
        raise PydanticCustomError("unsupported", "this server does not support it", {"code": "unsupported"})
    return None


def _is_zero(value: Any) -> Any:
    if value is not None and (isinstance(value, bool) or value != 0):
        raise PydanticCustomError(
            "unsupported", "this server supports 0 alone; see repetition_penalty", {"code": "unsupported"}
        )
    return 0


def _only(wanted: bool | int) -> BeforeValidator:
    """That value itself: to Python 1, 1.0 and True are equal."""

    def check(value: Any) -> Any:
        if value is not None and (type(value) is not type(wanted) or value != wanted):
            raise PydanticCustomError("only", "must be {wanted}", {"wanted": str(wanted).lower()})
        return value

    return BeforeValidator(check)


def _is_small(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > 16:  # OpenAI's limit
        raise ValueError("at most 16 entries")
    return value


def _is_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair at character {error.start} is not text") from error
    return text


Text = Annotated[str, AfterValidator(_is_unicode)]
_ABSENT = [{"type": "null"}, {"type": "array", "maxItems": 0}, {"type": "object", "maxProperties": 0}]
Unsupported = Annotated[None, BeforeValidator(_is_absent), WithJsonSchema({"anyOf": _ABSENT})]
ZeroOnly = Annotated[Literal[0] | None, BeforeValidator(_is_zero)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Stop = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARS)]


def _bounds(field: str) -> Any:
    bounds = API_BOUNDS[field]
    low, high = bounds.minimum, bounds.maximum
    return Field(gt=low, le=high) if bounds.is_open else Field(ge=low, le=high)


class Strict(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _knows_all_fields(cls, data: Any) -> Any:
        unknown = (
            next((name for name in data if name not in cls.model_fields), None)
            if isinstance(data, dict)
            else None
        )
        if unknown is not None:
            name = str(unknown)[:100].encode("utf-8", "replace").decode()
            context = {"field": name, "code": "unknown_parameter"}
            raise PydanticCustomError("unknown_field", "there is no such parameter", context)
        return data


class TextPart(Strict):
    """A piece of a message; only text is supported."""

    type: Literal["text"]
    text: Text


class ChatMessage(Strict):
    """One turn.

    `name` has no effect. What OpenAI's client sends back with an assistant's turn may be there, but empty.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=_MAX_MESSAGES)]
    name: str | None = None
    refusal: Unsupported = None
    audio: Unsupported = None
    annotations: Unsupported = None
    function_call: Unsupported = None
    tool_calls: Unsupported = None

    def for_template(self) -> dict[str, str]:
        """The turn as chat templates know it: a developer is a system, parts are joined by line breaks."""
        role = "system" if self.role == "developer" else self.role
        content = self.content
        if not isinstance(content, str):
            content = "\n".join(part.text for part in content)
        return {"role": role, "content": content}


class StreamOptions(Strict):
    """`include_obfuscation` has no effect."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ResponseFormat(Strict):
    """Plain text is the only one."""

    type: Literal["text"]


class SamplingFields(Strict):
    """What both endpoints have.

    `top_k`, `min_p`, `repetition_penalty` and `ignore_eos` are extensions. The last group is accepted
    without effect.
    """

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, _bounds("max_tokens")] | None = None
    temperature: Annotated[float, _bounds("temperature")] | None = None
    top_p: Annotated[float, _bounds("top_p")] | None = None
    seed: Annotated[int, _bounds("seed")] | None = None
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True, max_length=_MAX_STOPS)] | None = None
    presence_penalty: ZeroOnly = None
    frequency_penalty: ZeroOnly = None
    logit_bias: Unsupported = None

    top_k: Annotated[int, _bounds("top_k")] | None = None
    min_p: Annotated[float, _bounds("min_p")] | None = None
    repetition_penalty: Annotated[float, _bounds("repetition_penalty")] | None = None
    ignore_eos: bool | None = None

    user: str | None = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise _misused("stream_options", "only with stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, also of a single one."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=_MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, _bounds("max_completion_tokens")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, _bounds("top_logprobs")] | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True, max_length=1)] | None = None
    tool_choice: Literal["none"] | None = None
    tools: Unsupported = None
    functions: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    metadata: Annotated[dict[str, Any], BeforeValidator(_is_small)] | None = None
    store: bool | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise _misused("top_logprobs", "only with logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise _misused("max_tokens", "give either it or max_completion_tokens")
        return self


class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(fail_fast=True, min_length=1)]
        | TokenIds
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1)]
    )
    logprobs: Annotated[int, _bounds("logprobs")] | None = None
    echo: bool | None = None
    suffix: Unsupported = None
    best_of: Annotated[Literal[1] | None, _only(1)] = None


def _misused(field: str, rule: str) -> PydanticCustomError:
    return PydanticCustomError("misused", "{rule}", {"field": field, "rule": rule, "code": "invalid_value"})
