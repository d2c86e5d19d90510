"""Reading a safetensors file whole: the one place that calls the library."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from wf_formats.interrupts import interrupts_later


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name, memory-mapped. A Ctrl-C meanwhile, of which the library makes a ValueError, comes
    afterwards."""
    with interrupts_later():
        return load_file(path)
