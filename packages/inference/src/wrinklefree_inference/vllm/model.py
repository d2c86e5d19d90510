"""A folder that vLLM can load with the plug-in, looked at before vLLM is started, which takes a minute."""

from __future__ import annotations

from pathlib import Path

from wf_formats.decoder_config import DecoderConfig
from wf_formats.errors import LoadError, RequestError
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.models.hf_config import read_packed_quantization
from wf_formats.models.hf_model import open_hf_model
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import VllmOptions

_NUMBER_BYTES = 4
"""Of a key or value where the folder's numbers are float32; the most."""


def check_folder(path: Path) -> DecoderConfig:
    """The configuration of a folder whose tensors are all there.

    Raises:
        EngineError: there is no folder, or it holds another model than packed ternary weights.
    """
    if not path.is_dir():
        kind = "a file: vLLM loads folders (`wf export --format compressed-tensors`)"
        raise EngineError(f"{path} is {kind if path.exists() else 'not there'}")
    try:
        settings = read_json(path / CONFIG_FILE)
        read_packed_quantization(settings)
        if not settings.get("architectures"):
            raise LoadError(f"{CONFIG_FILE} does not name the model's class (architectures): export it again")
        return open_hf_model(path).config
    except (LoadError, OSError) as error:
        raise EngineError(f"vLLM cannot run {path}: {str(error).removeprefix(f'{path}: ')}") from error


def context_of(config: DecoderConfig, options: VllmOptions) -> int:
    """Longest prompt and answer in tokens. Raises: RequestError: more than the model has."""
    asked_for = options.context_tokens
    if asked_for is not None and asked_for > config.context_tokens:
        raise RequestError(f"--context {asked_for}: the model's context is {config.context_tokens} tokens")
    return min(options.context_tokens_or_default, config.context_tokens)


def cache_bytes_of(config: DecoderConfig, options: VllmOptions) -> int:
    """Of vLLM's key-value cache.

    Raises:
        RequestError: not one context fits.
    """
    token_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * _NUMBER_BYTES
    needed = context_of(config, options) * token_bytes
    if options.cache_gb is None:
        return options.contexts * needed
    if (given := round(options.cache_gb * 1e9)) < needed:
        raise RequestError(
            f"--kv-cache-gb {options.cache_gb:g} holds no context of {context_of(config, options)} tokens "
            f"({needed / 1e9:.3f} GB): give more, or a smaller --context"
        )
    return given
