"""The hyperparameter keys of one architecture in a GGUF file, checked for their kind when asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wf_formats.errors import LoadError


@dataclass(frozen=True)
class GgufSettings:
    """The keys `<arch>.<name>`."""

    keys: Mapping[str, Any]
    arch: str

    def get(self, name: str) -> Any:
        return self.keys.get(f"{self.arch}.{name}")

    def integer(self, name: str, default: int | None = None, at_most: int = (1 << 31) - 1) -> int:
        value = default if self.get(name) is None else self.get(name)
        if value is None:
            raise LoadError(f"key {self.arch}.{name} is missing")
        if type(value) is not int or not 0 < value < 1 << 31:
            per_layer = " (a value per layer is not supported)" if isinstance(value, list) else ""
            raise LoadError(f"{self.arch}.{name} is {value!r:.60}, not a positive whole number{per_layer}")
        if value > at_most:
            raise LoadError(f"{self.arch}.{name} is {value}; at most {at_most} are supported")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = default if self.get(name) is None else self.get(name)
        if value is None:
            raise LoadError(f"key {self.arch}.{name} is missing")
        if not isinstance(value, float) or not 0 < value < math.inf:
            raise LoadError(f"{self.arch}.{name} is {value!r:.60}, not a positive number (float32)")
        return float(value)

    def must_be(self, name: str, *allowed: Any) -> None:
        """The key is absent or has one of these values."""
        if (value := self.get(name)) is not None and value not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise LoadError(f"{self.arch}.{name} is {value!r:.60}; only {wanted} is supported here")

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and values of the architecture's keys."""
        prefix = f"{self.arch}."
        for key, value in self.keys.items():
            if key.startswith(prefix):
                yield key.removeprefix(prefix), value
