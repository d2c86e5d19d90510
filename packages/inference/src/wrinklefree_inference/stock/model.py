"""A folder that the plug-ins can load, looked at before a server is started, which takes a minute."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from wf_formats.decoder_config import DecoderConfig
from wf_formats.diffusion import NATIVE_REMEDY, ModelKindError
from wf_formats.errors import LoadError, RequestError
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.matrix import INT4_BITS
from wf_formats.models.hf_config import read_packed_quantization
from wf_formats.models.hf_model import open_hf_model
from wf_formats.models.kind import check_is_autoregressive
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import StockOptions
from wrinklefree_inference.stock.programs import Program

logger = logging.getLogger(__name__)

_DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, a key's or value's too."""


@dataclass(frozen=True)
class CheckedFolder:
    """What a server is told of a folder."""

    config: DecoderConfig
    dtype: str
    """Of its embeddings, and so of what is computed between the linears; for float32 vLLM's own choice is
    bfloat16, SGLang's float16, which are another model's answers. For weights of 4 bits it is what the
    kernel takes."""


def check_folder(path: Path, program: Program) -> CheckedFolder:
    """A folder whose tensors are all there.

    Args:
        program: The server.

    Raises:
        EngineError: there is no folder, or it holds another model than packed ternary weights.
        ModelKindError: it holds a block-diffusion model.
    """
    name = program.name
    if not path.is_dir():
        kind = f"a file: {name} loads folders (`wf export --format compressed-tensors`)"
        raise EngineError(f"{path} is {kind if path.exists() else 'not there'}")
    try:
        check_is_autoregressive(path, name, NATIVE_REMEDY)
        settings = read_json(path / CONFIG_FILE)
        quantization = read_packed_quantization(settings)
        if not settings.get("architectures"):
            raise LoadError(f"{CONFIG_FILE} does not name the model's class (architectures): export it again")
        dtype = settings.get("dtype") or settings.get("torch_dtype")
        if dtype not in _DTYPES:
            raise LoadError(f"{CONFIG_FILE}: dtype is {dtype!r:.60}, not one of {', '.join(_DTYPES)}")
        if quantization.bits == INT4_BITS:
            if program.int4_dtype is None:
                raise LoadError("weights of 4 bits: start it with `--engine vllm`, or without --engine")
            if dtype == "float32":
                dtype = program.int4_dtype
                logger.warning("%s has no product of 4-bit weights in float32: computing in %s", name, dtype)
        return CheckedFolder(open_hf_model(path).config, dtype)
    except ModelKindError:
        raise
    except (LoadError, OSError) as error:
        raise EngineError(f"{name} cannot run {path}: {str(error).removeprefix(f'{path}: ')}") from error


def context_of(config: DecoderConfig, options: StockOptions) -> int:
    """Longest prompt and answer in tokens. Raises: RequestError: more than the model has."""
    asked_for = options.context_tokens
    if asked_for is not None and asked_for > config.context_tokens:
        raise RequestError(f"--context {asked_for}: the model's context is {config.context_tokens} tokens")
    return min(options.context_tokens_or_default, config.context_tokens)


def cache_of(folder: CheckedFolder, options: StockOptions) -> tuple[int, int]:
    """Tokens and bytes of the key-value cache.

    Raises:
        RequestError: not one context fits.
    """
    config, context = folder.config, context_of(folder.config, options)
    token_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * _DTYPES[folder.dtype]
    needed = context * token_bytes
    if options.cache_gb is None:
        return options.contexts * context, options.contexts * needed
    if (given := round(options.cache_gb * 1e9)) < needed:
        raise RequestError(
            f"--kv-cache-gb {options.cache_gb:g} holds no context of {context} tokens "
            f"({needed / 1e9:.3f} GB): give more, or a smaller --context"
        )
    return given // token_bytes, given
