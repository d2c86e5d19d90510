"""What a model card says, as values: the `wrinklefree` key of its front matter, from which the text is made.

A card is its own record: publishing reads it back, adds what was measured meanwhile and writes the text
anew. A value that is not known is None (or an empty list) and stands neither in the record nor in the text.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field

BITS = 8
GGUF, HF = "gguf", "hf"
"""What `CardRecord.format` may be."""


@dataclass(frozen=True)
class BaseModel:
    """The dense model that the weights come from."""

    source: str
    """hub, path or packaged."""
    name: str
    """Repository id; of a folder its own name, without the way to it."""
    repository: str | None = None
    """On the hub."""
    revision: str | None = None
    """Commit of that repository."""


@dataclass(frozen=True)
class License:
    """As the hub has it: an identifier, and for `other` a name and where its text is."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class StagePassed:
    """A stage of training; None for what its run did not write down."""

    stage: str
    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class FileEntry:
    """A file of the export, by the name that it has in the repository."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Sizes:
    """Bytes of everything (an adapter too) and of embeddings and head; numbers of weights."""

    total_bytes: int
    embedding_bytes: int
    num_weights: Annotated[int, Field(gt=0)]
    """Of the blocks' matrices."""
    num_embedding_weights: int
    types: list[str]
    """Of the blocks' matrices, as the format calls them."""

    @property
    def bits_per_weight(self) -> float:
        """The files without their embeddings over the weights of the blocks."""
        return BITS * (self.total_bytes - self.embedding_bytes) / self.num_weights


@dataclass(frozen=True)
class Proof:
    """The findings of `wf verify` that passed; differences in nats."""

    runtime: str
    tokens: int
    num_matrices: int
    mean_abs_delta: float
    """To PyTorch with the runtime's own roundings."""
    top1_agreement: float
    as_trained_mean_abs_delta: float
    """To PyTorch as trained."""
    as_trained_top1_agreement: float


@dataclass(frozen=True)
class TextScore:
    """Perplexity on a text."""

    text: str
    """Name of the file, or what it is."""
    measured_on: str
    """`export` or `checkpoint`."""
    context_tokens: int
    num_tokens: int
    perplexity: float
    bits_per_byte: float
    stride_tokens: int | None = None
    full_precision_perplexity: float | None = None
    full_precision_bits_per_byte: float | None = None


@dataclass(frozen=True)
class TaskScore:
    """A metric of an lm-eval task."""

    task: str
    metric: str
    measured_on: str
    value: float
    num_samples: int
    stderr: float | None = None
    full_precision_value: float | None = None


@dataclass(frozen=True)
class CardRecord:
    """Everything that is known of an export."""

    name: str
    format: str
    """gguf or hf."""
    layout: str
    """Architecture in llama.cpp, or what the folder's quantization is called."""
    model_sha256: str
    """`wf_formats.digests.model_sha256` of the export."""
    checkpoint_sha256: str
    scheme: str
    sub_norm: bool
    files: Annotated[list[FileEntry], Field(min_length=1)]
    """The GGUF file and its adapter, or everything in the folder but the card."""
    sizes: Sizes
    low_rank: int = 0
    block_size: int | None = None
    """Tokens that a block-diffusion model denoises together; None: an autoregressive model."""
    context_tokens: int | None = None
    has_chat_template: bool = False
    base: BaseModel | None = None
    license: License | None = None
    languages: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    """Of the hub, that it was trained on."""
    stages: list[StagePassed] = field(default_factory=list)
    has_all_stages: bool = False
    """Whether the first one began with the dense model."""
    proof: Proof | None = None
    texts: list[TextScore] = field(default_factory=list)
    tasks: list[TaskScore] = field(default_factory=list)
    repository: str | None = None
    """Where it is published."""


def plain(record: CardRecord) -> dict[str, Any]:
    """JSON values, without what is not known."""
    found: dict[str, Any] = _known(asdict(record))
    return found


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(child) for key, child in value.items() if child is not None and child != []}
    return [_known(child) for child in value] if isinstance(value, list) else value
