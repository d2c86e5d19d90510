"""Every option of the engines and servers: its default, its help and its flag stand here, once.

The command line makes these objects (`commands.flags`) and they travel as they are to whoever acts on them.
Which engine takes which option follows from the types: `SERVERS` in `commands.serve` and `ENGINES` in
`engines` name the type of each. Fields without a flag are for code alone. Nothing here imports more than
the standard library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from wf_formats.environment import num_cores
from wf_formats.errors import RequestError
from wrinklefree_inference.addresses import is_loopback
from wrinklefree_inference.native.pages import PAGE_TOKENS, pages_for

DEFAULT_CONTEXT_TOKENS = 4096
ALL_CORES = "All cores if not given."
ADAPTER = "GGUF file of low-rank corrections beside the model's (a LoRA adapter)."
_VISIBLE = "On a machine with others (command lines can be read by all) better $WF_API_KEY"


class CacheType(StrEnum):
    """Numbers of the key-value cache."""

    F16 = "f16"
    INT8 = "int8"


class Speculate(StrEnum):
    """What guesses the tokens that a step checks beyond the next one."""

    OFF = "off"
    NGRAM = "ngram"
    DRAFT = "draft"


class LogForm(StrEnum):
    """Form of the log lines."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Flag:
    """Makes a field an option of the command line, in its annotation: `Annotated[int, Flag("--port", ...)]`.

    Attributes:
        minimum, maximum: Bounds of a number.
        envvar: Variable that gives the value where the flag does not.
    """

    flag: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    envvar: str | None = None

    @property
    def name(self) -> str:
        """Parameter of the command."""
        return self.flag.removeprefix("--").replace("-", "_")


ContextTokens = Annotated[
    int | None,
    Flag(
        "--context",
        f"Longest prompt and answer in tokens; if not given {DEFAULT_CONTEXT_TOKENS}, or the model's.",
        minimum=16,
    ),
]
NumThreads = Annotated[int | None, Flag("--threads", ALL_CORES, minimum=1)]
ModelId = Annotated[str | None, Flag("--model-id", "Id in /v1/models; the file's name if not given.")]
CacheGb = Annotated[
    float | None, Flag("--kv-cache-gb", "Cache for all requests in GB (1e9 bytes).", minimum=0.001)
]
MaxRunning = Annotated[int, Flag("--max-running", "Requests computed together.", minimum=1)]
NumParallel = Annotated[int, Flag("--parallel", "Requests answered at the same time.", minimum=1)]


@dataclass(frozen=True)
class ComputeOptions:
    """How a model runs on this machine; None: see the help."""

    context_tokens: ContextTokens = None
    num_threads: NumThreads = None

    @property
    def context_tokens_or_default(self) -> int:
        """For engines that do not ask the model."""
        return self.context_tokens or DEFAULT_CONTEXT_TOKENS

    @property
    def num_threads_or_all(self) -> int:
        """All cores that this process may use if not given."""
        return self.num_threads or num_cores()


@dataclass(frozen=True)
class EngineOptions(ComputeOptions):
    """How a model runs in this process."""

    adapter: Annotated[Path | None, Flag("--adapter", ADAPTER)] = None


@dataclass(frozen=True)
class NativeOptions(EngineOptions):
    """How our own decoder runs a model from the command line: its packed form is kept for the next start.

    With plain `EngineOptions` (evaluation, proofs of exports) nothing is kept and nothing guessed.
    """

    packs_afresh: Annotated[
        bool,
        Flag("--no-cache", "Pack the model anew and keep nothing on disk; as $WF_PACKED_CACHE=0."),
    ] = False
    speculate: Annotated[
        Speculate | None,
        Flag(
            "--speculate",
            "Guess tokens and check several in a step, where that is faster; answers stay the same. ngram: "
            "as the text went on before; draft: what --draft-model says. If not given draft with "
            "--draft-model, ngram without.",
        ),
    ] = None
    draft_model: Annotated[
        Path | None,
        Flag("--draft-model", "Smaller model of the same vocabulary that guesses for --speculate draft."),
    ] = None

    def __post_init__(self) -> None:
        if self.speculate is Speculate.DRAFT and self.draft_model is None:
            raise RequestError(
                "--speculate draft needs a model that guesses: give it with --draft-model FILE"
            )
        if self.draft_model is not None and self.speculate not in (None, Speculate.DRAFT):
            raise RequestError(
                f"--draft-model {self.draft_model} guesses nothing with --speculate {self.speculate.value}: "
                "leave one of them out"
            )

    @property
    def guesses_by(self) -> Speculate:
        """What guesses tokens."""
        return self.speculate or (Speculate.NGRAM if self.draft_model is None else Speculate.DRAFT)


@dataclass(frozen=True)
class ServedEngineOptions(EngineOptions):
    """How a served model runs."""

    model_id: ModelId = None


@dataclass(frozen=True)
class BitnetCppOptions(ComputeOptions):
    """How a model runs in bitnet.cpp."""

    build: Annotated[
        Path | None,
        Flag(
            "--bitnetcpp", "Folder of your build of bitnet.cpp, or its llama-server.", envvar="WF_BITNETCPP"
        ),
    ] = None


@dataclass(frozen=True)
class StockOptions(ComputeOptions):
    """How a model runs in vLLM or SGLang; `contexts` of them fit into the cache if no size was given."""

    environment: Path | None = None
    cache_gb: CacheGb = None
    contexts: int = 4


@dataclass(frozen=True)
class VllmOptions(StockOptions):
    """How a model runs in vLLM."""

    environment: Annotated[
        Path | None,
        Flag("--vllm", "Environment with vLLM and wrinklefree-vllm, or its Python.", envvar="WF_VLLM"),
    ] = None


@dataclass(frozen=True)
class SglangOptions(StockOptions):
    """How a model runs in SGLang."""

    environment: Annotated[
        Path | None,
        Flag(
            "--sglang", "Environment with SGLang and wrinklefree-sglang, or its Python.", envvar="WF_SGLANG"
        ),
    ] = None


@dataclass(frozen=True)
class ServedNativeOptions(NativeOptions, ServedEngineOptions):
    """How our own decoder runs a served model."""


@dataclass(frozen=True)
class ClientOptions:
    """How a server is asked.

    Attributes:
        model: Id of the model; None takes the first one that the server lists.
        timeout_s: Longest wait for the server's next piece.
    """

    api_key: Annotated[
        str | None, Flag("--api-key", f"Key of the server. {_VISIBLE}.", envvar="WF_API_KEY")
    ] = None
    model: str | None = None
    timeout_s: float = 120.0


@dataclass(frozen=True)
class CacheOptions:
    """The key-value cache of the native engine; `num_pages` decides how large it is."""

    tokens: Annotated[
        int | None,
        Flag("--kv-cache-tokens", "Cache for all requests in tokens; 4 contexts if not given.", minimum=32),
    ] = None
    gb: CacheGb = None
    type: Annotated[CacheType, Flag("--kv-cache-type", "f16, or int8 at half the memory.")] = CacheType.F16
    contexts: int = 4

    def __post_init__(self) -> None:
        if self.tokens is not None and self.gb is not None:
            raise RequestError(
                f"give --kv-cache-tokens ({self.tokens}) or --kv-cache-gb ({self.gb}), not both"
            )

    def num_pages(self, context_tokens: int, token_bytes: int) -> int:
        """Pages of the cache.

        Args:
            context_tokens: Longest prompt and answer; `contexts` of them fit if no size was given.
            token_bytes: Of one token's keys and values in all layers.

        Raises:
            RequestError: The cache holds no page.
        """
        tokens = max(self.contexts * context_tokens, PAGE_TOKENS) if self.tokens is None else self.tokens
        if self.gb is not None:
            tokens = int(self.gb * 1e9 / token_bytes)
        if tokens < PAGE_TOKENS:
            raise RequestError(f"the key-value cache holds {tokens} tokens, it needs at least {PAGE_TOKENS}")
        return pages_for(tokens)


@dataclass(frozen=True)
class QueueOptions:
    """What one native engine takes on.

    Attributes:
        max_running: Sequences computed together.
        max_waiting: Requests beyond those that are refused with `EngineBusy`.
        max_batch_tokens: Most tokens of one forward pass.
        prompt_tokens_beside_streams: Most prompt tokens of a forward pass in which streams wait for
            their next token: it bounds the pause between two tokens of a stream.
        max_unread: Tokens of an answer that wait for its reader, beside those of two steps; beyond it the
            answer rests.
        unread_timeout_s: An answer that rests so long is ended.
    """

    max_running: MaxRunning = 32
    max_waiting: Annotated[
        int, Flag("--max-waiting", "Longest queue; beyond it 429 with Retry-After.", minimum=0)
    ] = 128
    max_batch_tokens: Annotated[
        int, Flag("--max-batch-tokens", "Most tokens of one forward pass.", minimum=1)
    ] = 256
    prompt_tokens_beside_streams: int = 64
    max_unread: int = 128
    unread_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_running", "prompt_tokens_beside_streams", "max_unread"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_waiting < 0:
            raise RequestError(f"max_waiting must be 0 or more, got {self.max_waiting}")
        if self.max_batch_tokens <= self.max_running:
            raise RequestError(
                f"max_batch_tokens ({self.max_batch_tokens}) must exceed max_running ({self.max_running}), "
                "or prompts would not move while all streams run"
            )


@dataclass(frozen=True)
class ListenOptions:
    """Where a server listens and who may use it."""

    host: Annotated[str, Flag("--host", "Address; other than loopback needs a key.")] = "127.0.0.1"
    port: Annotated[int, Flag("--port", "0 takes a free one.", minimum=0, maximum=65535)] = 8080
    api_key: Annotated[
        list[str] | None,
        Flag(
            "--api-key",
            f"Key that requests must carry; several may be given. {_VISIBLE} or --api-key-file.",
            envvar="WF_API_KEY",
        ),
    ] = None
    api_key_file: Annotated[Path | None, Flag("--api-key-file", "File with one key a line.")] = None

    def __post_init__(self) -> None:
        if not (is_loopback(self.host) or self.api_key or self.api_key_file):
            raise RequestError(
                f"host {self.host} can be reached from other machines: set an API key, or listen on 127.0.0.1"
            )


@dataclass(frozen=True)
class HttpOptions:
    """Our HTTP server, in front of an engine or of another server.

    Attributes:
        max_inflight: Most requests between their first and last byte, running, waiting and being read; when
            there are so many, a client with less than its share is let in nevertheless.
    """

    max_body_mb: Annotated[
        float, Flag("--max-body-mb", "Longest request body (1e6 bytes).", minimum=0.001)
    ] = 4.0
    allow_origins: Annotated[
        list[str] | None,
        Flag("--allow-origin", "Web page that may call (CORS), https://HOST; several may be given."),
    ] = None
    shutdown_timeout_s: Annotated[
        float, Flag("--shutdown-timeout", "Seconds for running answers to end.", minimum=0)
    ] = 30.0
    log_format: Annotated[LogForm, Flag("--log-format", "Form of the log.")] = LogForm.TEXT
    header_timeout_s: Annotated[
        float, Flag("--header-timeout", "Seconds for a request's head to arrive.", minimum=0.1)
    ] = 10.0
    body_timeout_s: Annotated[
        float, Flag("--body-timeout", "Seconds for a request's body to arrive.", minimum=0.1)
    ] = 30.0
    keep_alive_timeout_s: Annotated[
        float, Flag("--keep-alive-timeout", "Seconds between an answer and the next request.", minimum=1)
    ] = 5.0
    write_timeout_s: Annotated[
        float,
        Flag("--write-timeout", "Seconds that a client may take nothing of its answer.", minimum=0.1),
    ] = 60.0
    max_connections: Annotated[
        int | None,
        Flag(
            "--max-connections",
            "Most connections; if not given 4096, or what the limit of open files leaves.",
            minimum=1,
        ),
    ] = None
    max_connections_per_client: Annotated[
        int | None,
        Flag(
            "--max-connections-per-client",
            "Most connections from one address (IPv6: 64 bits of it); if not given half of all.",
            minimum=1,
        ),
    ] = None
    max_inflight: int = 256

    def __post_init__(self) -> None:
        numbers = [name for name, value in vars(self).items() if type(value) in (int, float)]
        for name in (name for name in numbers if name != "shutdown_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise RequestError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def body_bytes(self) -> int:
        """Longest body, whether its length is announced or not."""
        return round(self.max_body_mb * 1e6)


@dataclass(frozen=True)
class AnswerOptions:
    """What one client may ask for, and as which model; max_output_tokens None leaves it to the context."""

    max_output_tokens: Annotated[
        int | None,
        Flag(
            "--max-output-tokens",
            "Longest answer, whatever is asked for; all that fits if not given.",
            minimum=1,
        ),
    ] = None
    max_choices: Annotated[
        int, Flag("--max-choices", "Most answers (n or best_of x prompts) of a request.", minimum=1)
    ] = 16
    aliases: Annotated[
        list[str] | None, Flag("--alias", "Another name of the model for clients; several may be given.")
    ] = None
    is_strict: Annotated[bool, Flag("--strict", "Refuse fields of requests that are not known.")] = False

    def __post_init__(self) -> None:
        for alias in self.aliases or ():
            if not (alias.strip() and alias.isprintable()):
                raise RequestError(f"--alias must be a name, got {alias!r}")


@dataclass(frozen=True)
class NativeServerOptions:
    """`serve --engine native`."""

    model: str | Path
    listen: ListenOptions = field(default_factory=ListenOptions)
    engine: ServedNativeOptions = field(default_factory=ServedNativeOptions)
    cache: CacheOptions = field(default_factory=CacheOptions)
    queue: QueueOptions = field(default_factory=QueueOptions)
    answers: AnswerOptions = field(default_factory=AnswerOptions)
    http: HttpOptions = field(default_factory=HttpOptions)


@dataclass(frozen=True)
class LlamaCppServerOptions:
    """`serve --engine llamacpp`; context tokens are those of each of `num_parallel` requests."""

    model: str | Path
    listen: ListenOptions = field(default_factory=ListenOptions)
    engine: ServedEngineOptions = field(default_factory=ServedEngineOptions)
    num_parallel: NumParallel = 2
    web_ui: Annotated[bool, Flag("--web-ui", "Its own chat page at /.")] = False


@dataclass(frozen=True)
class BitnetCppServerOptions:
    """`serve --engine bitnetcpp`; context tokens are those of each of `num_parallel` requests."""

    model: str | Path
    listen: ListenOptions = field(default_factory=ListenOptions)
    engine: BitnetCppOptions = field(default_factory=BitnetCppOptions)
    model_id: ModelId = None
    num_parallel: NumParallel = 2


UpstreamTimeout = Annotated[
    float,
    Flag("--upstream-timeout", "Seconds until the server behind sends something, or more.", minimum=0.1),
]


@dataclass(frozen=True)
class ProxyOptions:
    """`serve --engine openai`: `model` is the URL of the server behind."""

    model: str
    listen: ListenOptions = field(default_factory=ListenOptions)
    http: HttpOptions = field(default_factory=HttpOptions)
    upstream_api_key: Annotated[
        str | None,
        Flag(
            "--upstream-api-key",
            "Key of the server behind; better $WF_UPSTREAM_API_KEY.",
            envvar="WF_UPSTREAM_API_KEY",
        ),
    ] = None
    upstream_timeout_s: UpstreamTimeout = 600.0


@dataclass(frozen=True)
class StockServerOptions:
    """A server of others behind our HTTP."""

    model: str | Path
    listen: ListenOptions = field(default_factory=ListenOptions)
    http: HttpOptions = field(default_factory=HttpOptions)
    engine: StockOptions = field(default_factory=StockOptions)
    model_id: ModelId = None
    max_running: MaxRunning = 32
    upstream_timeout_s: UpstreamTimeout = 600.0


@dataclass(frozen=True)
class VllmServerOptions(StockServerOptions):
    """`serve --engine vllm`."""

    engine: VllmOptions = field(default_factory=VllmOptions)


@dataclass(frozen=True)
class SglangServerOptions(StockServerOptions):
    """`serve --engine sglang`."""

    engine: SglangOptions = field(default_factory=SglangOptions)
