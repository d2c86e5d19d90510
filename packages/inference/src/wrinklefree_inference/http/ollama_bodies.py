"""Bodies of Ollama's paths, as strict as OpenAI's.

What would change the answer and cannot be done is refused by name; settings of Ollama's own memory and
threads have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from wrinklefree_inference.http.chat_requests import ChatRequest
from wrinklefree_inference.http.ollama_messages import OllamaMessage
from wrinklefree_inference.http.requests import Text, Unsupported
from wrinklefree_inference.http.tool_fields import Tool, Tools, checked_schema
from wrinklefree_inference.http.translated import chat_request
from wrinklefree_inference.http.unknown_fields import Strict

MAX_MESSAGES = 2048
MAX_INPUTS = 2048
LIMIT = "options.num_predict"
_ALL_THAT_FITS = (-1, -2)
_SAME = ("temperature", "top_k", "top_p", "min_p", "stop", "presence_penalty", "frequency_penalty")
_NAMES = {
    **{name: f"options.{name}" for name in (*_SAME, "seed")},
    "max_completion_tokens": LIMIT,
    "repetition_penalty": "options.repeat_penalty",
    "response_format": "format",
}
NoEffect = Any


def _checked_format(value: Any) -> Any:
    return checked_schema("format", value) if isinstance(value, dict) else value


class OllamaOptions(Strict):
    """How the answer is drawn; `num_predict` -1 and -2 are all that fits, `seed` -1 is a random one.

    The last groups have no effect: the context is the server's (`wf serve --context`), `repeat_penalty` looks
    at all tokens, and what mirostat's numbers say matters only with mirostat, which there is not.
    """

    num_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: Literal[0] | None = None
    typical_p: Unsupported = None
    tfs_z: Unsupported = None

    num_ctx: int | None = None
    repeat_last_n: int | None = None
    mirostat_tau: NoEffect = None
    mirostat_eta: NoEffect = None

    num_keep: NoEffect = None
    num_batch: NoEffect = None
    num_gpu: NoEffect = None
    main_gpu: NoEffect = None
    num_thread: NoEffect = None
    numa: NoEffect = None
    low_vram: NoEffect = None
    f16_kv: NoEffect = None
    use_mmap: NoEffect = None
    use_mlock: NoEffect = None

    def for_chat(self) -> dict[str, Any]:
        """Fields of a chat request."""
        limit = None if self.num_predict in _ALL_THAT_FITS else self.num_predict
        fields = {name: getattr(self, name) for name in _SAME}
        return fields | {
            "max_completion_tokens": limit,
            "seed": None if self.seed == -1 else self.seed,
            "repetition_penalty": self.repeat_penalty,
        }


class OllamaFields(Strict):
    """What both generating paths have. Answers are streamed unless `stream` is false; `keep_alive` has no
    effect, because the model stays."""

    model: str
    stream: bool | None = None
    options: OllamaOptions | None = None
    format: Annotated[Literal["", "json"] | dict[str, Any] | None, AfterValidator(_checked_format)] = None
    keep_alive: str | float | None = None
    think: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None

    def as_chat(
        self, messages: list[dict[str, Any]], param: str, tools: list[Tool] | None = None
    ) -> ChatRequest:
        """The chat request that asks for the same.

        Args:
            param: Field that the messages came by.

        Raises:
            InvalidBody: A value is refused; it names the field.
        """
        is_stream = self.stream is not False
        fields = (self.options or OllamaOptions()).for_chat() | {
            "model": self.model.removesuffix(":latest"),
            "messages": messages,
            "response_format": _response_format(self.format),
            "tools": tools,
            "stream": is_stream,
            "stream_options": {"include_usage": True} if is_stream else None,
        }
        return chat_request(fields, _NAMES | {"messages": param})


def _response_format(wanted: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not wanted:
        return None
    if isinstance(wanted, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": dict(wanted), "strict": True}}


class OllamaChatRequest(OllamaFields):
    """POST /api/chat; without messages it only asks whether the model is there."""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True, max_length=MAX_MESSAGES)] = Field(
        default_factory=list
    )
    tools: Tools | None = None


class OllamaGenerateRequest(OllamaFields):
    """POST /api/generate; `raw` continues the text without the model's chat template.

    Without a prompt it only asks whether the model is there.
    """

    prompt: Text = ""
    system: Text | None = None
    raw: bool | None = None
    template: Unsupported = None
    suffix: Unsupported = None
    images: Unsupported = None
    context: Unsupported = None

    def messages(self) -> list[dict[str, Any]]:
        """The prompt as a conversation."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, {"role": "user", "content": self.prompt}]


class OllamaEmbedRequest(Strict):
    """POST /api/embed; an input that is too long is refused, whatever `truncate` would do."""

    model: str
    input: Text | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: Literal[False] | None = None
    options: OllamaOptions | None = None
    keep_alive: str | float | None = None


class OllamaShowRequest(Strict):
    """POST /api/show; `name` is the field's older name, `verbose` has no effect."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


class OllamaError(BaseModel):
    """Every response whose status is 400 or more."""

    error: str


class OllamaFunctionOfCall(BaseModel):
    """What to call, with arguments as an object that fits its schema."""

    index: int
    name: str
    arguments: dict[str, Any]


class OllamaCallOfAnswer(BaseModel):
    """A call for the client to make."""

    id: str
    function: OllamaFunctionOfCall


class OllamaMessageText(BaseModel):
    """What was added to the answer, or all of it; `tool_calls` is there where there are some."""

    role: Literal["assistant"] = "assistant"
    content: str
    tool_calls: list[OllamaCallOfAnswer] = []


class OllamaAnswer(BaseModel):
    """An answer, or a line of it; the last line has the counts, and durations in nanoseconds.

    `prompt_eval_duration` is from when the request was queued to the first token, the wait included.
    """

    model: str
    created_at: str
    done: bool
    done_reason: str | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class OllamaChatAnswer(OllamaAnswer):
    """Of /api/chat."""

    message: OllamaMessageText


class OllamaGenerateAnswer(OllamaAnswer):
    """Of /api/generate."""

    response: str


class OllamaEmbedAnswer(BaseModel):
    """Of /api/embed."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaDetails(BaseModel):
    """Of a model; `quantization_level` is how its matrices are packed."""

    parent_model: str = ""
    format: str = "wrinklefree"
    family: str = ""
    families: list[str] = []
    parameter_size: str
    quantization_level: str


class OllamaModel(BaseModel):
    """What is served. `digest` is of its facts: whoever compares digests sees another model as another."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(BaseModel):
    """Answer of /api/tags and /api/ps."""

    models: list[OllamaModel]


class OllamaShown(BaseModel):
    """Answer of /api/show."""

    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(BaseModel):
    """Answer of /api/version: of the Ollama whose paths these are."""

    version: str
