"""Which kind of model lies at a path, and the one face that all kinds show to the measurements.

| kind       | recognised by                                                 | runs in              |
| ---------- | ------------------------------------------------------------- | -------------------- |
| gguf       | a file that begins with `GGUF`                                 | llama.cpp            |
| checkpoint | folder with config.json and a wrinklefree.json without "export" | bitnet_arch          |
| hf         | folder with config.json, safetensors, and either no            | stock transformers   |
|            | wrinklefree.json or one that has "export"                      |                      |
| native     | never by itself (`--kind native`): whatever `wf serve` runs    | the native engine    |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wf_formats.diffusion import SETTINGS_KEY, read_settings
from wf_formats.exports import HUB_PREFIX
from wf_formats.file_names import CONFIG_FILE, META_FILE
from wf_formats.printable import printable
from wf_formats.schemes import PHASES_METHOD
from wf_formats.secrets import redacted
from wf_formats.urls import meant_url
from wrinklefree_eval.errors import EvalError, EvalRequestError

if TYPE_CHECKING:
    from bitnet_arch.block_scoring import BlockBound
    from data_handler.conversations import ConversationTemplate
    from wf_formats.diffusion import BlockDiffusion
    from wrinklefree_inference import TokenScores


class ModelKind(StrEnum):
    """What a path holds."""

    CHECKPOINT = "checkpoint"
    HF = "hf"
    GGUF = "gguf"
    NATIVE = "native"


class EvalModel(Protocol):
    """A model that scores text.

    Attributes:
        kind: What was loaded.
        context_tokens: Longest list of ids that `score` takes.
        prefix_ids: Ids that the model's tokenizer puts before every text (a BOS token, or none).
    """

    kind: ModelKind
    context_tokens: int
    prefix_ids: list[int]

    def facts(self) -> dict[str, Any]:
        """JSON values that describe the model: name, size_bytes, num_parameters, ..."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, without special tokens around it."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids."""

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        """Scores of ids[start:], each given all ids before it."""

    def template(self) -> ConversationTemplate:
        """Its chat template. Raises: DataRequestError for none."""

    def harness(self, batch_size: int) -> Any:
        """The model as an lm-eval `LM`."""

    def close(self) -> None:
        """Free it."""


class BoundModel(EvalModel, Protocol):
    """A block-diffusion model: `diffusion_model.DiffusionModel`.

    Attributes:
        model: In PyTorch.
        tokenizer: transformers'.
        diffusion: What it denoises.
        samples: Copies with masks of each block, at most.
        seed: Of the masks.
        num_passes: Of the bounds so far.
    """

    path: Path
    model: Any
    tokenizer: Any
    diffusion: BlockDiffusion
    samples: int
    seed: int
    num_passes: int

    def bound(self, ids: Sequence[int], start: int) -> BlockBound:
        """A bound of -log p(ids[start:]), given all ids before them."""


KNOWN = (
    "a .gguf file; a checkpoint folder of the training (config.json, safetensors, "
    "wrinklefree.json); a Hugging Face folder (config.json, safetensors)"
)


def local_path(text: str) -> Path:
    """A path of this machine. Raises: EvalRequestError for what is, or was meant as, a URL or `hub:` id."""
    url = text if text.startswith(HUB_PREFIX) else meant_url(text)
    if url is not None:
        shown = printable(redacted(url))
        raise EvalRequestError(
            f"{shown} is not on this machine: fetch it (`wf store get`, `wf pull`), or evaluate it elsewhere "
            "(--cloud NAME)"
        )
    return Path(text)


def recognise(path: Path) -> ModelKind:
    """The kind of the model at `path`, by what is there, not by names.

    Raises:
        EvalError: Nothing there, or nothing known.
    """
    if not path.exists():
        raise EvalRequestError(f"there is no model at {path} (known kinds: {KNOWN})")
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return ModelKind.GGUF
        raise EvalError(f"{path} is a file but no GGUF (known kinds: {KNOWN})")
    if not (path / CONFIG_FILE).is_file():
        hint = "".join(f"; did you mean {f}?" for f in sorted(path.glob("*.gguf"))[:1])
        raise EvalError(f"{path} has no config.json{hint} (known kinds: {KNOWN})")
    if not any(path.glob("*.safetensors")):
        raise EvalError(f"{path} has no *.safetensors (known kinds: {KNOWN})")
    if _is_checkpoint(path):
        return ModelKind.CHECKPOINT
    return ModelKind.NATIVE if _has_phases(path) else ModelKind.HF


def _has_phases(path: Path) -> bool:
    """Whether a folder holds complex weights, which the native engine alone runs."""
    quantization = read_settings(path, EvalError).get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == PHASES_METHOD


def is_block_diffusion(path: Path) -> bool:
    """Whether a folder or a GGUF file holds a block-diffusion model.

    Raises: EvalError for a config.json that cannot be read.
    """
    if not path.is_dir():
        from wf_formats.gguf import GgufError
        from wf_formats.models.kind import diffusion_of

        with suppress(GgufError, OSError):  # of a file that cannot be read whoever opens it says why
            return diffusion_of(path) is not None
        return False
    return (path / CONFIG_FILE).is_file() and read_settings(path, EvalError).get(SETTINGS_KEY) is not None


def check_kind(path: Path, kind: ModelKind) -> None:
    """Raises: ModelKindError for a block-diffusion model in a runtime that scores each token after those
    before it."""
    if kind in (ModelKind.GGUF, ModelKind.NATIVE) and is_block_diffusion(path):
        from wf_formats.models.kind import check_is_autoregressive

        remedy = "give the checkpoint folder without --kind, whose bound PyTorch computes"
        check_is_autoregressive(path, f"wf eval by {kind.value}", remedy)


def check_masks(model_path: Path, samples: int | None, seed: int | None) -> None:
    """Raises: EvalRequestError for options of a diffusion model's with another model."""
    option = "--samples" if samples is not None else "--seed"
    if (samples is not None or seed is not None) and not is_block_diffusion(model_path):
        raise EvalRequestError(
            f"{option} is of the masks of a block-diffusion model, and {model_path} is none: leave it out"
        )


def _is_checkpoint(folder: Path) -> bool:
    record = folder / META_FILE
    if not record.is_file():
        return False
    try:
        return "export" not in json.loads(record.read_text())
    except json.JSONDecodeError as error:
        raise EvalError(f"{record} is damaged: {error}") from error
