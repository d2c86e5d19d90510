"""What a block-diffusion model says of itself: which tokens it denoises together (docs/diffusion.md).

Its files look like those of the autoregressive model that it is built like, so their config.json has a model
type and a class of its own, and GGUF files an architecture: a runtime that knows nothing of block diffusion
refuses them by name instead of computing something else. `model_settings` and `disk_settings` are the one way
in and out, `check_autoregressive` and `check_diffusion` what keeps the two kinds apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wf_formats.errors import LoadError
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.kernel_sizes import PAGE_TOKENS
from wf_formats.printable import number_of

SETTINGS_KEY = "block_diffusion"
"""Of a config in memory and of a config.json: the fields of `BlockDiffusion`."""
MASK_TOKEN = "<|mask|>"
"""What the tokenizer calls the token that stands for an unknown one."""
MODEL_TYPE, CLASS = "block_diffusion", "BlockDiffusionForCausalLM"
"""model_type and architectures of a config.json; no library has such a class."""
BASE_TYPE_KEY = "base_model_type"
"""Of a config.json: the model_type that the model is built like."""
GGUF_PREFIX = "block-diffusion-"
"""Before the name of the architecture that a GGUF file's model is built like."""
NATIVE_BLOCKS = tuple(size for size in range(1, PAGE_TOKENS + 1) if PAGE_TOKENS % size == 0)
"""Tokens of the blocks that the native engine runs: they fill its pages."""


@dataclass(frozen=True)
class BlockDiffusion:
    """Token i of a document, counted from 0, is in block i // block_size. It sees all tokens of earlier
    blocks and of its own, those after it too, as far as they are known; the others are mask tokens there.
    """

    block_size: int
    """Tokens."""
    mask_token_id: int
    """Stands for an unknown token; never part of a text."""
    token_shift: bool = True
    """Logits at token i - 1 predict token i, as those of an autoregressive model do, and the first token of a
    block follows from the finished block before it; False: logits at token i, which is masked, predict it."""

    def __post_init__(self) -> None:
        for name, least in (("block_size", 1), ("mask_token_id", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise LoadError(f"{SETTINGS_KEY}.{name} is {value!r}, not a whole number of at least {least}")
        if not isinstance(self.token_shift, bool):
            raise LoadError(f"{SETTINGS_KEY}.token_shift is {self.token_shift!r}, not true or false")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> BlockDiffusion | None:
        """Of a config.json's contents; None: an autoregressive model.

        Raises: LoadError for entries that are missing, unknown or impossible.
        """
        entries = settings.get(SETTINGS_KEY)
        if entries is None:
            return None
        if not isinstance(entries, Mapping):
            raise LoadError(f"{SETTINGS_KEY} is {entries!r}, not an object")
        try:
            return cls(**entries)
        except TypeError as error:
            known = ", ".join(cls.__dataclass_fields__)
            raise LoadError(f"{SETTINGS_KEY} has {sorted(entries)}; its entries are {known}") from error

    def to_settings(self) -> dict[str, Any]:
        """The value of `SETTINGS_KEY`."""
        return asdict(self)

    def __str__(self) -> str:
        shift = "with" if self.token_shift else "without"
        blocks = f"blocks of {number_of(self.block_size, 'token')}"
        return f"{blocks}, mask token {self.mask_token_id}, {shift} the token shift"

    def why_not_served(self) -> str | None:
        """Why the native engine, which alone runs such files, does not run this; None where it does."""
        if self.block_size in NATIVE_BLOCKS:
            return None
        return (
            f"the model's blocks have {self.block_size} tokens; the native engine runs blocks of "
            f"{', '.join(map(str, NATIVE_BLOCKS[:-1]))} or {NATIVE_BLOCKS[-1]}, which fill its pages: train "
            "it with one of these"
        )

    def check_fits(self, num_rows: Any, context_tokens: Any) -> None:
        """Raises LoadError where a model of so many rows of embeddings and such a context cannot be this.

        What is no number is refused elsewhere."""
        if type(num_rows) is int and self.mask_token_id >= num_rows:
            raise LoadError(
                f"{SETTINGS_KEY}.mask_token_id is {self.mask_token_id}, the model's vocabulary has "
                f"{num_rows} (rows of its embeddings)"
            )
        if type(context_tokens) is int and self.block_size > context_tokens:
            raise LoadError(
                f"{SETTINGS_KEY}.block_size is {self.block_size}, the model's context {context_tokens} tokens"
            )


def exclude_token(logits: Any, token_id: int) -> None:
    """Gives a token, the mask token say, no probability, in place.

    The one exception are the losses of training kernels, which have no -inf
    (wrinklefree_distillation/losses/predictions.py).

    Args:
        logits: floats [..., vocabulary], of numpy or PyTorch.
    """
    logits[..., token_id] = -math.inf


def read_settings(folder: Path, error_type: type[ValueError] = LoadError) -> dict[str, Any]:
    """Contents of a folder's config.json as of the model in memory (`model_settings`).

    Raises:
        ValueError: of that type; as `read_json` and `model_settings`.
    """
    settings = read_json(folder / CONFIG_FILE, error_type)
    try:
        return model_settings(settings)
    except LoadError as error:
        raise error_type(f"{folder / CONFIG_FILE}: {error}") from error


def model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says, as of the model in memory: a block-diffusion model has the type of the model
    that it is built like, and `SETTINGS_KEY`.

    Raises:
        LoadError: one of what makes such a file is there without the others, or does not fit the model.
    """
    found = dict(settings)
    if found.get("model_type") != MODEL_TYPE:
        if found.get(SETTINGS_KEY) is not None or BASE_TYPE_KEY in found:
            key = SETTINGS_KEY if found.get(SETTINGS_KEY) is not None else BASE_TYPE_KEY
            raise LoadError(
                f"{key} is of a block-diffusion model, and model_type is {found.get('model_type')!r:.60}, "
                f"not {MODEL_TYPE!r}: other runtimes would misread the folder; save it again as a checkpoint"
            )
        return found
    base = found.pop(BASE_TYPE_KEY, None)
    if not isinstance(base, str) or base == MODEL_TYPE:
        raise LoadError(f"{BASE_TYPE_KEY} is {base!r:.60}, not the model type that the model is built like")
    diffusion = BlockDiffusion.from_settings(found)
    if diffusion is None:
        raise LoadError(f"model_type is {MODEL_TYPE!r}, and {SETTINGS_KEY} is missing")
    diffusion.check_fits(found.get("vocab_size"), found.get("max_position_embeddings"))
    found.pop("architectures", None)
    return found | {"model_type": base}


def disk_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of a model: the inverse of `model_settings`."""
    if settings.get(SETTINGS_KEY) is None:
        return {key: value for key, value in settings.items() if key != SETTINGS_KEY}
    own = {"model_type": MODEL_TYPE, BASE_TYPE_KEY: settings["model_type"], "architectures": [CLASS]}
    return {**settings, **own}


BEFORE_DIFFUSION = "what it does comes first; give the autoregressive model, and make it one by `wf dlm` then"
AUTOREGRESSIVE_REMEDY = "give an autoregressive model"
NATIVE_REMEDY = "the native engine is for it (--engine native), and otherwise give an autoregressive model"


class ModelKindError(LoadError):
    """A block-diffusion model where an autoregressive one is asked for, or the reverse."""

    exit_code = 2


def check_autoregressive(
    diffusion: BlockDiffusion | None,
    what: str,
    remedy: str = AUTOREGRESSIVE_REMEDY,
    where: object = "the model",
) -> None:
    """Args:
        what: the command or engine that computes each token from those before it alone.
        where: the model, for the message.

    Raises:
        ModelKindError: it is a block-diffusion model.
    """
    if diffusion is not None:
        raise ModelKindError(
            f"{where} is a block-diffusion model (blocks of "
            f"{number_of(diffusion.block_size, 'token')}), which {what} "
            f"would misread as an autoregressive one: {remedy}"
        )


def check_diffusion(diffusion: BlockDiffusion | None, what: str) -> BlockDiffusion:
    """Args: what: the command or engine that is for block diffusion alone.

    Raises: ModelKindError for an autoregressive model.
    """
    if diffusion is None:
        raise ModelKindError(
            f"the model is autoregressive, and {what} takes a block-diffusion model: `wf dlm` makes one of it"
        )
    return diffusion
