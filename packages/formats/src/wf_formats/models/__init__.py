"""Models in files: GGUF, ternary or of 4 to 8 bits, and ternary folders: ours, packed BitNet, checkpoints.

    open_model(path)   checks the file and gives a `ModelFile`: codes and scales, tensor by tensor

Readers are imported when a file is opened: a model that is kept packed needs none of them.

Nothing that changes answers is ignored: an unknown setting, tensor or type is refused by name.
"""

from __future__ import annotations

from pathlib import Path

from wf_formats.errors import LoadError
from wf_formats.models.source import MasterQuantizer, ModelFile

__all__ = ["MasterQuantizer", "ModelFile", "open_model"]


def open_model(
    path: Path | str, quantize_master: MasterQuantizer | None = None, adapter: Path | None = None
) -> ModelFile:
    """Opens a GGUF file or a Hugging Face folder and checks everything but the values.

    Args:
        quantize_master: for training checkpoints, whose folders hold float master weights;
            `bitnet_arch.master_quantizer.quantize_master` is the one definition.
        adapter: GGUF file of low-rank corrections (a LoRA adapter) beside a GGUF model.

    Raises:
        LoadError: the model cannot run here; the message says why and what would help.
        GgufError: the file is damaged (a ValueError, as LoadError is).
        OSError: it is missing or cannot be read.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            from wf_formats.gguf import open_gguf
            from wf_formats.models.gguf_model import open_gguf_model

            return open_gguf_model(open_gguf(path), adapter)
        if adapter is not None:
            raise LoadError(
                f"adapter {adapter} belongs to a GGUF file; a folder has its low-rank corrections in itself: "
                "leave --adapter out"
            )
        from wf_formats.models.hf_model import open_hf_model

        return open_hf_model(path, quantize_master)
    except LoadError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error
