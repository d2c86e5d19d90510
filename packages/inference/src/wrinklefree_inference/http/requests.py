"""Bodies of requests, as OpenAI defines them, with a few fields more for sampling: what both endpoints share.

Everything is strict: a number as a string, or a feature that this server does not have gives an error that
names the field; fields that it does not know are another matter (`unknown_fields.py`). A list stops at its
first bad item, because pydantic would otherwise describe each of a million.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from wf_formats.bounds import is_number
from wrinklefree_inference.http.unknown_fields import Strict
from wrinklefree_inference.native.request import MAX_BIASES, MAX_STOP_CHARS
from wrinklefree_inference.sampling_bounds import API_BOUNDS, BIAS_BOUNDS

_MAX_STOPS = 4
_TOKEN_ID = r"(0|[1-9][0-9]{0,8})"  # below 2^31


def _is_absent(value: Any) -> Any:
    if value != "" and none_if_empty(value) is not None:  # Ollama's Go client sends empty texts too
        raise PydanticCustomError("unsupported", "this server does not support it", {"code": "unsupported"})
    return None


def none_if_empty(value: Any) -> Any:
    """Clients send an empty list or object for what they do not use."""
    return None if value in ([], {}) else value


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


Text = Annotated[str, AfterValidator(_is_unicode)]
ABSENT: Any = [{"type": "null"}, {"type": "array", "maxItems": 0}, {"type": "object", "maxProperties": 0}]
_EMPTY_TEXT: Any = {"type": "string", "maxLength": 0}
Unsupported = Annotated[None, BeforeValidator(_is_absent), WithJsonSchema({"anyOf": [*ABSENT, _EMPTY_TEXT]})]
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
    BeforeValidator(none_if_empty),
    WithJsonSchema({"anyOf": [_BIASES, *ABSENT[:2]]}),
]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Stop = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARS)]


def bounds_of(field: str) -> Any:
    """A number within `API_BOUNDS`."""
    bounds = API_BOUNDS[field]
    low, high = bounds.minimum, bounds.maximum
    return Field(gt=low, le=high) if bounds.is_open else Field(ge=low, le=high)


class StreamOptions(Strict):
    """`include_obfuscation` has no effect."""

    place: ClassVar[str] = "stream_options."
    include_usage: bool = False
    include_obfuscation: bool | None = None


class SamplingFields(Strict):
    """What both endpoints have.

    `top_k`, `min_p`, `repetition_penalty` and `ignore_eos` are extensions, and for block-diffusion models
    alone `threshold` and `sub_block`. The last group is accepted
    without effect.
    """

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, bounds_of("max_tokens")] | None = None
    temperature: Annotated[float, bounds_of("temperature")] | None = None
    top_p: Annotated[float, bounds_of("top_p")] | None = None
    seed: Annotated[int, bounds_of("seed")] | None = None
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True, max_length=_MAX_STOPS)] | None = None
    presence_penalty: Annotated[float, bounds_of("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, bounds_of("frequency_penalty")] | None = None
    logit_bias: Biases = None

    top_k: Annotated[int, bounds_of("top_k")] | None = None
    min_p: Annotated[float, bounds_of("min_p")] | None = None
    repetition_penalty: Annotated[float, bounds_of("repetition_penalty")] | None = None
    ignore_eos: bool | None = None
    threshold: Annotated[float, bounds_of("threshold")] | None = None
    sub_block: Annotated[int, bounds_of("sub_block")] | None = None

    user: str | None = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise misused("stream_options", "only with stream: true")
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


class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(fail_fast=True, min_length=1)]
        | TokenIds
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1)]
    )
    logprobs: Annotated[int, bounds_of("logprobs")] | None = None
    echo: bool | None = None
    suffix: Unsupported = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise misused("max_tokens", "must be at least 1 without echo, or -1 for all that fits, got 0")
        if self.best_of is not None and self.best_of < self.num_choices:
            raise misused("best_of", f"must be at least n ({self.num_choices}), got {self.best_of}")
        if self.num_drawn > self.num_choices and self.stream:
            raise misused("best_of", "not with stream: true, since the best are known at the end")
        return self

    @property
    def num_drawn(self) -> int:
        """Answers that are drawn for each prompt, of which the best `num_choices` are given out."""
        return self.best_of or self.num_choices


def misused(field: str, rule: str) -> PydanticCustomError:
    """The error of a field that does not fit the others."""
    return PydanticCustomError("misused", "{rule}", {"field": field, "rule": rule, "code": "invalid_value"})
