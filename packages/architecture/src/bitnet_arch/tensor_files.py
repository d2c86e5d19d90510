"""Reading safetensors files: the one place that calls the library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from wf_formats.interrupts import interrupts_later


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name, memory-mapped. A Ctrl-C meanwhile, of which the library makes a ValueError, comes
    afterwards."""
    with interrupts_later():
        return load_file(path)


class TensorFiles:
    """The tensors of several files by name, of which only what is asked for is read."""

    def __init__(self, paths: Iterable[Path]) -> None:
        with interrupts_later():
            files = [safe_open(path, framework="pt") for path in paths]
            self._files: dict[str, Any] = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor."""
        with interrupts_later():
            tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def rows(self, name: str, part: slice) -> Tensor:
        """Of the first dimension."""
        with interrupts_later():
            tensor: Tensor = self._files[name].get_slice(name)[part]
        return tensor
