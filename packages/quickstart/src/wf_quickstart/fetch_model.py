"""Makes the original model available: `python -m wf_quickstart.fetch_model OUTPUT packaged|hub [ID]`.

A process of its own, since unpacking the packaged model loads PyTorch. Writes {"folder", "gguf"} to OUTPUT:
a Hugging Face folder, and the model as a GGUF file or null.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wf_formats.atomic import atomic_write_json
from wf_formats.packaged import ModelSource, packaged_gguf

HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def fetch(source: ModelSource, name: str | None) -> dict[str, Any]:
    """Raises: ValueError for a source that needs no fetching."""
    if source is ModelSource.packaged:
        import bitnet_arch

        return {"folder": str(bitnet_arch.packaged_model_dir()), "gguf": str(packaged_gguf())}
    if source is ModelSource.hub and name is not None:
        import huggingface_hub

        return {
            "folder": huggingface_hub.snapshot_download(name, allow_patterns=list(HUB_FILES)),
            "gguf": None,
        }
    raise ValueError(f"source {source} with name {name!r} is not packaged, and not hub with an id")


def main(arguments: Sequence[str]) -> None:
    output, kind, *names = arguments
    atomic_write_json(Path(output), fetch(ModelSource(kind), names[0] if names else None))


if __name__ == "__main__":
    main(sys.argv[1:])
