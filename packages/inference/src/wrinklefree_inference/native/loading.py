"""From a file or folder to a `NativeModel`; `ternary_kernels` is imported here, when a model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wf_formats.diffusion import BlockDiffusion, ModelKindError
from wf_formats.errors import LoadError, reason_of
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.native.blocks.limits import check_options, depends_on_kind
from wrinklefree_inference.native.master_weights import quantize_master
from wrinklefree_inference.native.model import NativeModel
from wrinklefree_inference.native.speculation.draft import DraftGuesser
from wrinklefree_inference.native.speculation.guesser import Guesser
from wrinklefree_inference.native.speculation.ngram import NGramGuesser
from wrinklefree_inference.options import (
    DEFAULT_CONTEXT_TOKENS,
    CacheOptions,
    CacheType,
    EngineOptions,
    Head,
    NativeOptions,
    Speculate,
    TernaryFormat,
)

if TYPE_CHECKING:
    from ternary_kernels import Decoder
    from ternary_kernels.packed.settings import CacheSettings
    from ternary_kernels.weights import ModelWeights
    from wrinklefree_inference.native.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
_NEEDED = "ternary_kernels", "ternary_kernels.packed", "wrinklefree_inference.native.tokenizer"
MIN_CONTEXT_TOKENS = 2
OTHER_ENGINE = "; or let llama.cpp run the file as it is: --engine llamacpp"


def load_native_model(
    path: str | Path, options: EngineOptions | None = None, cache: CacheOptions | None = None
) -> NativeModel:
    """Load a model with its tokenizer and make room for a key-value cache, whose memory is taken as it fills.

    Args:
        path: GGUF file or Hugging Face folder.
        options: Context, threads, and the adapter with low-rank corrections of a GGUF file. With
            `NativeOptions` the packed model is kept, and taken from there (`ternary_kernels.packed`).
        cache: Size and numbers of the cache.

    Raises:
        EngineError: The file is missing or of a kind that the decoder does not run; the message says why.
        RequestError: An option is for models of another kind.
    """
    import_kernels()
    import ternary_kernels
    from wrinklefree_inference.native.tokenizer import StreamDecoder

    path = Path(path)
    options, cache = options or EngineOptions(), cache or CacheOptions()
    if not path.exists():
        raise EngineError(f"there is no file or folder {path}; check the path (wf list shows what is here)")
    if depends_on_kind(options):  # before anything is packed
        check_options(options, _kind_of(path, _refusal))
    if (draft := getattr(options, "draft_model", None)) is not None:
        _check_draft(draft)
    settings = _cache_settings(options)
    has_screen = isinstance(options, NativeOptions) and options.head is Head.SCREENED
    try:
        weights, tokenizer = _read(path, options.adapter, settings, has_screen, _format_of(options))
        config = weights.config
        context = options.context_tokens or min(config.context_tokens, DEFAULT_CONTEXT_TOKENS)
        if not 1 <= context <= config.context_tokens:
            raise ValueError(f"context_tokens must be in [1, {config.context_tokens}], got {context}")
        num_pages = cache.num_pages(context, token_bytes_of(config, cache.type))
        decoder = ternary_kernels.Decoder(weights, num_pages, cache.type.value, options.num_threads or 0)
    except ModelKindError as error:
        raise type(error)(f"{path}: {error}") from error
    except (ValueError, OSError) as error:
        raise _refusal(path, error) from error
    if config.diffusion is not None and context > config.diffusion.block_size:
        context -= context % config.diffusion.block_size  # requests have whole blocks
    new_guesser = None
    if config.diffusion is None:
        new_guesser = _new_guesser(options, decoder, tokenizer, cache.type)
    return NativeModel(
        name=path.stem if path.is_file() else path.resolve().name,
        runner=decoder,
        tokenizer=tokenizer,
        new_guesser=new_guesser,
        new_decoder=lambda shows_special=False: StreamDecoder(tokenizer, not shows_special),
        sample=ternary_kernels.sample,
        context_tokens=context,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_parameters=num_parameters_of(weights),
        weight_type=weights.layers[0].down.format,
        size_bytes=size_bytes_of(path),
        diffusion=config.diffusion,
        decoding=check_options(options, config.diffusion),
    )


def _new_guesser(
    options: EngineOptions, target: Decoder, tokenizer: Tokenizer, cache_type: CacheType
) -> Callable[[], Guesser] | None:
    """What makes the guesser of a core; None: nothing guesses."""
    if not isinstance(options, NativeOptions) or options.guesses_by is Speculate.OFF:
        return None
    if options.draft_model is None:
        return NGramGuesser
    return _draft_guesser(options.draft_model, options, target, tokenizer, cache_type)


def _draft_guesser(
    path: Path, options: NativeOptions, target: Decoder, tokenizer: Tokenizer, cache_type: CacheType
) -> Callable[[], Guesser]:
    """Load a draft model, with a cache for as many tokens as the target's.

    Raises:
        EngineError: It cannot guess for this model; the message names it and its option.
    """
    import ternary_kernels

    settings = _cache_settings(options)
    try:
        weights, its_tokenizer = _read(path, None, settings, has_screen=False, format=options.format)
        if (difference := tokenizer.difference_to(its_tokenizer)) is not None:
            token_id, own, its = difference
            raise ValueError(
                f"it has other tokens than the model: {token_id} is {its!r:.60} there and {own!r:.60} here; "
                "take a smaller model of the same family"
            )
        config, num_threads = weights.config, options.num_threads or 0
        decoder = ternary_kernels.Decoder(weights, target.num_pages, cache_type.value, num_threads)
    except (ValueError, OSError) as error:
        raise _draft_refusal(path, error) from error
    return partial(
        DraftGuesser,
        decoder,
        config.context_tokens,
        ternary_kernels.sample,
        target.config.vocab_size,
        config.vocab_size,
    )


def _check_draft(path: Path) -> None:
    """Raises EngineError where a draft model is not there or of a kind that guesses nothing."""
    if not path.exists():
        raise _draft_refusal(path, ValueError("there is no such file or folder"))
    if _kind_of(path, _draft_refusal) is not None:
        raise _draft_refusal(path, ValueError("it is a block-diffusion model, which guesses no next tokens"))


def _kind_of(path: Path, refusal: Callable[[Path, Exception], EngineError]) -> BlockDiffusion | None:
    """By the head of the file, before any weight is read. Raises: as `load_native_model`."""
    from wf_formats.models.kind import diffusion_of

    try:
        return diffusion_of(path)
    except (ValueError, OSError) as error:
        raise refusal(path, error) from error


def import_kernels() -> None:
    """Import what loading a model needs, so that a thread can load while another imports something else.

    Raises:
        EngineError: The kernels are not installed.
    """
    try:
        for module in _NEEDED:
            import_module(module)
    except ImportError as error:
        raise EngineError(f"the native engine needs the package ternary-kernels: {error}") from error


def _read(
    path: Path,
    adapter: Path | None,
    settings: CacheSettings | None,
    has_screen: bool,
    format: TernaryFormat,
) -> tuple[ModelWeights, Tokenizer]:
    """Weights and tokenizer.

    Raises:
        ValueError, OSError: They cannot be read, or could answer nothing.
    """
    from ternary_kernels.packed import load_packed
    from wrinklefree_inference.native.tokenizer import Tokenizer

    loaded = load_packed(path, quantize_master, adapter, settings, has_screen, format.value)
    config, tokenizer = loaded.weights.config, Tokenizer(loaded.tokenizer)
    if faults := faults_of(config.context_tokens, config.vocab_size, tokenizer):
        raise ValueError("; ".join(faults))
    return loaded.weights, tokenizer


def _format_of(options: EngineOptions) -> TernaryFormat:
    return options.format if isinstance(options, NativeOptions) else TernaryFormat.AUTO


def _cache_settings(options: EngineOptions) -> CacheSettings | None:
    """Where packed models are kept, or of plain options the faster format alone; None: nowhere."""
    from ternary_kernels.packed.settings import CacheSettings
    from wf_formats.packaged import CacheError

    if isinstance(options, NativeOptions) and options.packs_afresh:
        return None
    try:
        settings = CacheSettings.from_environment()
    except CacheError as error:
        _log.warning("packed models are not kept: %s", error)
        return None
    return settings and replace(settings, keeps_models=isinstance(options, NativeOptions))


def faults_of(context_tokens: int, vocab_size: int, tokenizer: Tokenizer) -> list[str]:
    """Why a model that can be loaded could answer nothing, or not what is asked."""
    faults = []
    if context_tokens < MIN_CONTEXT_TOKENS:
        faults.append(
            f"its context is {context_tokens} token(s), a prompt and an answer need {MIN_CONTEXT_TOKENS}: "
            "correct the context length that the file states"
        )
    fix = f"its embedding has rows for {vocab_size}: take the tokenizer that the model was made with"
    if tokenizer.num_model_tokens > vocab_size:
        faults.append(f"its tokenizer makes {tokenizer.num_model_tokens} tokens, {fix}")
    elif (beyond := tokenizer.token_beyond(vocab_size)) is not None:
        faults.append(f"its tokenizer puts {beyond[0]!r:.60} with id {beyond[1]} into prompts, {fix}")
    return faults


def _refusal(path: Path, error: Exception) -> EngineError:
    """Why a model is refused; of a file that is fine but not for this engine, what else could run it."""
    from wf_formats.models.gguf_adapter import AdapterError
    from wrinklefree_inference.native.tokenizer import TokenizerError

    is_other_kind = isinstance(error, LoadError | TokenizerError) and not isinstance(error, AdapterError)
    fix = OTHER_ENGINE if is_other_kind and path.is_file() else ""
    return EngineError(f"the native engine cannot run {path}: {reason_of(error, path)}{fix}")


def _draft_refusal(path: Path, error: Exception) -> EngineError:
    return EngineError(f"--draft-model {path} cannot guess for the model: {reason_of(error, path)}")


def num_parameters_of(weights: ModelWeights) -> int:
    """Numbers in the matrices, vectors and corrections of `ternary_kernels.ModelWeights`; a tied head counts
    once."""
    from ternary_kernels import Matrix

    layers = [getattr(layer, field.name) for layer in weights.layers for field in fields(layer)]
    parts = [weights.embedding, weights.head, weights.final_norm, *layers]
    return sum(
        part.rows * part.cols if isinstance(part, Matrix) else part.size for part in parts if part is not None
    )


def size_bytes_of(path: Path) -> int:
    """Bytes of a model file, or of the weights in a folder."""
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def token_bytes_of(config: Any, cache_type: CacheType) -> int:
    """Bytes of one token's keys and values in all layers (int8: with a float scale for each head)."""
    head_bytes = 2 * config.head_dim if cache_type == "f16" else config.head_dim + 4
    return 2 * config.num_layers * config.num_kv_heads * head_bytes
