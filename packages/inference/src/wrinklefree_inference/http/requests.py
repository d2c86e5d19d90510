"""Bodies of requests, as OpenAI defines them, with a few fields more for sampling.

Everything is strict: a number as a string, or a feature that this server does not have gives an error that
names the field; fields that it does not know are another matter (`unknown_fields.py`). A list stops at its
first bad item, because pydantic would otherwise describe each of a million.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from wf_formats.bounds import is_number
from wf_formats.chat_template import RESERVED_VARIABLES
from wrinklefree_inference.http.unknown_fields import Strict
from wrinklefree_inference.native.request import MAX_BIASES, MAX_STOP_CHARS
from wrinklefree_inference.sampling_bounds import API_BOUNDS, BIAS_BOUNDS

_MAX_STOPS = 4
_MAX_MESSAGES = 2048  # OpenAI's limit
_TOKEN_ID = r"(0|[1-9][0-9]{0,8})"  # below 2^31


def _is_absent(value: Any) -> Any:
    if _or_none(value) is not None:
        raise PydanticCustomError("unsupported", "this server does not support it", {"code": "unsupported"})
    return None


def _or_none(value: Any) -> Any:
    """Clients send an empty list or object for what they do not use."""
    return None if value in ([], {}) else value


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


def _biases(value: Any) -> Any:
    """OpenAI's object of token ids, which JSON has as texts, and numbers; what is no such thing is named."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens, got {len(value)}")
    for name, number in value.items():
        if not re.fullmatch(_TOKEN_ID, name):
            raise ValueError(f'{name[:40]!r} is not a token id: send {{"id": number, ...}}')
        if not is_number(number, BIAS_BOUNDS):
            raise ValueError(f"the value of token {name} must be a number {BIAS_BOUNDS}, got {number!r:.40}")
    return value


def _are_no_values_of_ours(value: Any) -> Any:
    taken = sorted(RESERVED_VARIABLES & value.keys()) if isinstance(value, dict) else []
    if taken:
        raise ValueError(f"{taken[0]} is the server's to set")
    return value


Text = Annotated[str, AfterValidator(_is_unicode)]
_ABSENT = [{"type": "null"}, {"type": "array", "maxItems": 0}, {"type": "object", "maxProperties": 0}]
Unsupported = Annotated[None, BeforeValidator(_is_absent), WithJsonSchema({"anyOf": _ABSENT})]
_BIASES = {
    "type": "object",
    "maxProperties": MAX_BIASES,
    "propertyNames": {"pattern": f"^{_TOKEN_ID}$"},
    "additionalProperties": {
        "type": "number",
        "minimum": BIAS_BOUNDS.minimum,
        "maximum": BIAS_BOUNDS.maximum,
    },
}
Biases = Annotated[
    dict[str, float] | None,
    BeforeValidator(_biases),
    BeforeValidator(_or_none),
    WithJsonSchema({"anyOf": [_BIASES, *_ABSENT[:2]]}),
]
TemplateVariables = Annotated[dict[str, Any], BeforeValidator(_are_no_values_of_ours)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Stop = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARS)]


def _bounds(field: str) -> Any:
    bounds = API_BOUNDS[field]
    low, high = bounds.minimum, bounds.maximum
    return Field(gt=low, le=high) if bounds.is_open else Field(ge=low, le=high)


class TextPart(Strict):
    """A piece of a message; only text is supported."""

    place: ClassVar[str] = "messages[].content[]."
    type: Literal["text"]
    text: Text


class ChatMessage(Strict):
    """One turn.

    `name` has no effect. What OpenAI's client sends back with an assistant's turn may be there, but empty.
    """

    place: ClassVar[str] = "messages[]."
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

    place: ClassVar[str] = "stream_options."
    include_usage: bool = False
    include_obfuscation: bool | None = None


class ResponseFormat(Strict):
    """Plain text is the only one."""

    place: ClassVar[str] = "response_format."
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
    presence_penalty: Annotated[float, _bounds("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, _bounds("frequency_penalty")] | None = None
    logit_bias: Biases = None

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
    def num_choices(self) -> int:
        """Answers for each prompt."""
        return self.n or 1

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """(token id, number) pairs."""
        return tuple((int(name), number) for name, number in (self.logit_bias or {}).items())

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
    reasoning_effort: Annotated[Effort | None, BeforeValidator(_or_none)] = None
    chat_template_kwargs: TemplateVariables | None = None
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
        for field in ("max_tokens", "max_completion_tokens"):
            if getattr(self, field) == 0:
                raise _misused(field, "must be at least 1, or -1 for all that fits, got 0")
        return self

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the chat template gets beside the messages.

        `reasoning_effort` under its name, for templates that know it; none and minimal also as
        `enable_thinking: false`, which Qwen 3's know. What `chat_template_kwargs` says counts first.
        """
        variables: dict[str, Any] = {}
        if self.reasoning_effort is not None:
            variables["reasoning_effort"] = self.reasoning_effort
        if self.reasoning_effort in ("none", "minimal"):
            variables["enable_thinking"] = False
        return variables | (self.chat_template_kwargs or {})


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
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise _misused("max_tokens", "must be at least 1 without echo, or -1 for all that fits, got 0")
        if self.best_of is not None and self.best_of < self.num_choices:
            raise _misused("best_of", f"must be at least n ({self.num_choices}), got {self.best_of}")
        if self.num_drawn > self.num_choices and self.stream:
            raise _misused("best_of", "not with stream: true, since the best are known at the end")
        return self

    @property
    def num_drawn(self) -> int:
        """Answers that are drawn for each prompt, of which the best `num_choices` are given out."""
        return self.best_of or self.num_choices


def _misused(field: str, rule: str) -> PydanticCustomError:
    return PydanticCustomError("misused", "{rule}", {"field": field, "rule": rule, "code": "invalid_value"})
