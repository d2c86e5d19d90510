"""What a config.json alone tells of a source: whether its weights are dense and its model one to convert.

Asked before any weight is read or downloaded, so that 10 GB are not fetched to be refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bitnet_arch.errors import CheckpointError, SourceError, UnsupportedModelError
from wf_formats.errors import LoadError
from wf_formats.families import FAMILIES
from wf_formats.families.settings import FLAGS, NUMBERS, check_values, rope_objects
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.schemes import MASTER_METHOD, PACKED_METHOD, PHASES_METHOD

_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (fbgemm)",
    "mxfp4": "MXFP4",
    "gguf": "GGUF",
}
"""quant_method -> as people call it, where that differs."""
_MARKS = re.compile(
    r"[-_.](fp8|gptq|awq|bnb|mxfp4|nvfp4|int[48]|[48]-?bit|w\d+a\d+|quantized|autoround)\b.*$", re.IGNORECASE
)
"""What names of quantized models add to the model's own."""
_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_WRAPPED_KEYS = ("text_config", "vision_config", "audio_config")
_BITNET_FLOATS = "microsoft/bitnet-b1.58-2B-4T-bf16"


def check_dense(settings: Mapping[str, Any], name: str) -> None:
    """Refuses weights that are quantized already.

    Args:
        settings: contents of config.json, of a folder that is no checkpoint of ours.
        name: of the source, for messages.

    Raises:
        SourceError: names the method and what to load instead.
    """
    quantization = settings.get("quantization_config", settings.get("compression_config"))
    if quantization is not None:
        raise SourceError(f"{name} {_quantized(settings, quantization, name)}")
    if settings.get("model_type") == "bitnet":
        raise SourceError(f"{name} {_BORN_TERNARY}")


_BORN_TERNARY = (
    "is ternary from birth (model type 'bitnet'), so there is nothing to convert: serve the folder with "
    "`wf serve --model FOLDER` and measure it with `wf eval --model-path FOLDER`, which run its float master "
    "weights and its packed ones as they are"
)


def _quantized(settings: Mapping[str, Any], quantization: Any, name: str) -> str:
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method == "bitnet":
        return _bitnet(settings, quantization)
    if method in (PACKED_METHOD, PHASES_METHOD):
        return "is an export with packed codes; start from the checkpoint that it was made from"
    if method == MASTER_METHOD:
        return "is converted already, but its wrinklefree.json is missing: copy the whole checkpoint folder"
    called = _METHODS.get(str(method), str(method or "an unnamed method"))
    return (
        f"is quantized already ({called}): its weights are rounded, and conversion needs those before "
        f"rounding. Load {_original(settings, name)} in bf16, fp16 or fp32"
    )


def _bitnet(settings: Mapping[str, Any], quantization: Mapping[str, Any]) -> str:
    if quantization.get("quantization_mode", "offline") == "online":
        return _BORN_TERNARY
    if settings.get("model_type") == "bitnet":
        floats = f"its float master weights are {_BITNET_FLOATS}"
    else:
        floats = (
            "to train it, download the revision with float weights (Falcon-E: prequantized) and give its "
            "folder with model.source=path"
        )
    return (
        "holds packed ternary weights (quant_method bitnet): `wf serve --model FOLDER` and `wf eval "
        f"--model-path FOLDER` run it as it is; {floats}"
    )


def _original(settings: Mapping[str, Any], name: str) -> str:
    """The model that a quantized one was made from, as far as files and names tell."""
    recorded = settings.get("_name_or_path")
    stripped = _MARKS.sub("", name)
    for candidate in (recorded, stripped):
        if isinstance(candidate, str) and candidate and candidate != name and not _MARKS.search(candidate):
            return f"the original ({Path(candidate).name if candidate == stripped else candidate})"
    return "the original"


def check_config(settings: Mapping[str, Any], where: object) -> None:
    """Refuses values that no model has, before a library takes them at their word.

    Args:
        settings: contents of config.json; of a family that is not known here transformers alone judges.
        where: folder or repository, for messages.

    Raises:
        CheckpointError: names key and value.
    """
    if settings.get("model_type") not in FAMILIES:
        return
    try:
        check_values(settings)
    except LoadError as error:
        reason = str(error).removeprefix(f"{CONFIG_FILE}: ")
        raise CheckpointError(f"{where}/{CONFIG_FILE}: {reason}") from error
    _check_names(settings, where)


def null_hint(folder: Path) -> str:
    """What to add to an error of transformers, whose words seldom name the key that is null."""
    settings = read_json(folder / CONFIG_FILE, CheckpointError)
    null = [key for key in (*NUMBERS, *FLAGS) if key in settings and settings[key] is None]
    return f"; null there is {', '.join(null)}: leave such keys out, or give their values" if null else ""


def _check_names(settings: Mapping[str, Any], where: object) -> None:
    """What transformers looks up by name: it would fail with the name alone."""
    key = FAMILIES[settings["model_type"]].activation_key
    scalings = [rope.get("rope_type") or rope.get("type") for rope in rope_objects(settings)]
    for name_of, name, known in (
        (key, settings.get(key), ACT2FN),
        *(("rope_type", scaling, {"default", *ROPE_INIT_FUNCTIONS}) for scaling in scalings),
    ):
        if name is not None and not (isinstance(name, str) and name in known):
            raise CheckpointError(
                f"{where}/{CONFIG_FILE}: {name_of} is {name!r:.60}, which transformers does not know"
            )


def check_convertible(settings: Mapping[str, Any]) -> None:
    """Refuses models of another build than the known families, whatever their model type is called.

    Raises:
        UnsupportedModelError: names the build and what could be loaded instead.
    """
    kind = f"model type {settings.get('model_type')!r}"
    if settings.get("is_encoder_decoder"):
        raise UnsupportedModelError(f"{kind} is an encoder-decoder; only decoders can be converted")
    if wrapped := [key for key in _WRAPPED_KEYS if isinstance(settings.get(key), dict)]:
        inner = settings.get("text_config") or {}
        text = f" ({inner['model_type']})" if inner.get("model_type") else ""
        raise UnsupportedModelError(
            f"{kind} is multimodal ({', '.join(wrapped)} in config.json); load its language model{text} "
            "alone, saved as a causal language model of its own"
        )
    if experts := [key for key in _EXPERT_KEYS if settings.get(key)]:
        raise UnsupportedModelError(
            f"{kind} is a mixture of experts ({experts[0]}={settings[experts[0]]}); only models with one "
            "feed-forward part in a block can be converted: load a dense model of the family"
        )
    window = settings.get("sliding_window")
    if type(window) is int and window < 1:
        raise UnsupportedModelError(
            f"sliding_window={window}: a layer sees at least one token; null in config.json means no windows"
        )
    context = settings.get("max_position_embeddings")
    if type(context) is int and context < 2:
        raise UnsupportedModelError(
            f"max_position_embeddings={context}: a context of {context} tokens has nothing to predict from; "
            "set what the model was trained for in config.json"
        )
