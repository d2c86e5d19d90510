"""A folder where a GGUF file is asked for: what it holds, and what runs that or makes a GGUF file of it."""

from __future__ import annotations

from pathlib import Path

from wf_formats.diffusion import (
    NATIVE_REMEDY,
    BlockDiffusion,
    ModelKindError,
    check_autoregressive,
    read_settings,
)
from wf_formats.errors import LoadError, reason_of
from wf_formats.exports import GGUF_SUFFIX
from wf_formats.families import family_of
from wf_formats.families.support import support
from wf_formats.file_names import CONFIG_FILE
from wf_formats.models.hf_config import Storage, read_quantization
from wf_formats.schemes import PHASE_SCHEMES, description

_NATIVE = "the native engine runs it (--engine native)"
_CONVERTER = "llama.cpp's convert_hf_to_gguf.py makes a GGUF file"
_FLOATS = (
    f"packages/fairy2/scripts/dense.py writes a checkpoint's values as floats, of which {_CONVERTER} in F16"
)


def what_runs_folder(folder: Path, program: str) -> str:
    """What stands in a folder, and the way to run it, for a program that takes GGUF files alone.

    Raises:
        ModelKindError: it holds a block-diffusion model.
    """
    if not (folder / CONFIG_FILE).is_file():
        files = sorted(path.name for path in folder.glob(f"*{GGUF_SUFFIX}"))
        if files:
            return f"give one of its files: {', '.join(files)}"
        return f"it holds no model, neither {CONFIG_FILE} nor a {GGUF_SUFFIX} file (wf list shows others)"
    try:
        settings = read_settings(folder)
        check_autoregressive(BlockDiffusion.from_settings(settings), program, NATIVE_REMEDY, folder)
        quantization = read_quantization(settings)
        has_sub_norms = quantization.has_sub_norms or family_of(settings.get("model_type")).has_sub_norms
    except ModelKindError:
        raise
    except LoadError as error:
        return f"{reason_of(error, folder)}; of the original model, in floats, {_CONVERTER}"
    if quantization.storage is Storage.VALUES:
        return f"it holds a dense model, of which {_CONVERTER}"
    if quantization.scheme in PHASE_SCHEMES:
        what = description(quantization.scheme)
        return f"it holds {what}, whose sums no type of GGUF has: {_NATIVE}; {_FLOATS}"
    if quantization.storage is not Storage.MASTER:
        return (
            f"it holds {description(quantization.scheme)} for other runtimes: {_NATIVE}, and `wf export "
            "--checkpoint CHECKPOINT --output NAME.gguf` writes a GGUF file of its checkpoint"
        )
    if support(settings, quantization.scheme, has_sub_norms)["gguf"] is None:
        return (
            f"it holds a training checkpoint: `wf export --checkpoint {folder} --output NAME.gguf` makes one"
        )
    return f"it holds a training checkpoint, and no GGUF file holds such a model: {_NATIVE}"
