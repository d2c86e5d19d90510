"""How engines run a model, and how a server is asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from wf_formats.block_decoding import BlockDecoding
from wf_formats.environment import num_cores
from wf_formats.errors import RequestError
from wrinklefree_inference.options.flag import KEY_HINT, Flag

DEFAULT_CONTEXT_TOKENS = 4096
ALL_CORES = "All cores if not given."
ADAPTER = "GGUF file of low-rank corrections beside the model's (a LoRA adapter)."


class Speculate(StrEnum):
    """What guesses the tokens that a step checks beyond the next one."""

    OFF = "off"
    NGRAM = "ngram"
    DRAFT = "draft"


class TernaryFormat(StrEnum):
    """How ternary matrices are packed."""

    AUTO = "auto"
    T2 = "t2"
    T5 = "t5"


class Head(StrEnum):
    """How the next token's logits are computed."""

    SCREENED = "screened"
    FULL = "full"


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

    With plain `EngineOptions` (evaluation, proofs of exports) nothing is guessed and no model kept, only
    which format is faster here.
    """

    packs_afresh: Annotated[
        bool,
        Flag("--no-cache", "Pack the model anew and keep nothing on disk; as $WF_PACKED_CACHE=0."),
    ] = False
    format: Annotated[
        TernaryFormat,
        Flag(
            "--format",
            "Ternary matrices in memory: t2: 2 bits a weight; t5: 1.67; auto: what a short race finds faster "
            "on this machine when a model is packed. Answers are the same.",
        ),
    ] = TernaryFormat.AUTO
    speculate: Annotated[
        Speculate | None,
        Flag(
            "--speculate",
            "Guess tokens and check several in a step, where that is faster; answers stay the same. ngram: "
            "as the text went on before; draft: what --draft-model says. If not given draft with "
            "--draft-model, ngram without.",
        ),
    ] = None
    head: Annotated[
        Head,
        Flag(
            "--head",
            "screened: a compact copy rules out most tokens where the likeliest are enough (temperature 0, "
            "top_k, min_p): fewer bytes are read a token, and the head takes more than half as much memory "
            "again; full: none does. Answers are the same.",
        ),
    ] = Head.SCREENED
    draft_model: Annotated[
        Path | None,
        Flag("--draft-model", "Smaller model of the same vocabulary that guesses for --speculate draft."),
    ] = None

    threshold: Annotated[
        float | None,
        Flag(
            "--threshold",
            "Of block-diffusion models: tokens more probable than this are drawn together; 1 draws one a "
            f"pass. {BlockDecoding.threshold} if not given.",
            minimum=0,
            maximum=1,
        ),
    ] = None
    sub_block: Annotated[
        int | None,
        Flag(
            "--sub-block",
            "Of block-diffusion models: tokens of a block that are drawn before those after them. "
            f"{BlockDecoding.sub_block} if not given.",
            minimum=1,
        ),
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
        str | None, Flag("--api-key", f"Key of the server. {KEY_HINT}.", envvar="WF_API_KEY")
    ] = None
    model: str | None = None
    timeout_s: float = 120.0
