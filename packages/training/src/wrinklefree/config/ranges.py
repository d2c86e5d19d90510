"""Which numbers a key takes: stated beside its default, checked for all keys at once.

    batch_size: int = number(4, least=1)

A number without a range is checked too: whole numbers have 64 bits, others are finite float32 numbers, since
that is what they are computed with (none that is so small that it would be 0).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wrinklefree.config.errors import ConfigError

_RANGE = "range"
_MAX_WHOLE = 2**63 - 1
_MIN_FLOAT, _MAX_FLOAT = 2.0**-126, (2 - 2**-23) * 2.0**127
MOST_MINUTES = 525_600
"""A year: what a stage can be planned into."""
MAX_STEPS, MAX_SEQUENCES, MAX_LENGTH_TOKENS, MAX_TOKENS = 10**9, 10**6, 10**7, 10**13
"""Of a run; of a forward pass (or its passes of a step); of a sequence; of a run. More is a slip."""
MAX_DAMPING = 1000.0
"""Of a diagonal, as a share of its mean: nothing is left of what is off it."""


@dataclass(frozen=True)
class Range:
    """Bounds; None: none. `above` and `below` are not included."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound:g}" for word, bound in words.items() if bound is not None)


ANY = Range()


def number(default: Any, **bounds: float) -> Any:
    """A field of a schema with its range: `least`, `most`, `above`, `below`."""
    return dataclasses.field(default=default, metadata={_RANGE: Range(**bounds)})


def range_of(schema: type, name: str) -> Range:
    """The range of a field; a schema that only gives another default keeps the range of its base."""
    for base in schema.__mro__:
        field = base.__dict__.get("__dataclass_fields__", {}).get(name)
        if field is not None and _RANGE in field.metadata:
            found: Range = field.metadata[_RANGE]
            return found
    return ANY


def check_ranges(config: Any, where: str = "") -> None:
    """Raises: ConfigError naming the first key whose number is out of its range."""
    for key, value, bounds in _numbers(config, where):
        is_whole = isinstance(value, int)
        is_possible = abs(value) <= _MAX_WHOLE if is_whole else _is_float32(value)
        if not is_possible or value not in bounds:
            kind = "a whole number" if is_whole else "a finite float32 number"
            raise ConfigError(f"{key}={value} is not possible: give {kind}, {bounds}".rstrip(", "))


def _is_float32(value: float) -> bool:
    return value == 0 or _MIN_FLOAT <= abs(value) <= _MAX_FLOAT


def _numbers(value: Any, where: str, bounds: Range = ANY) -> Iterator[tuple[str, float, Range]]:
    """Every number below `value`: its dotted key, itself and its range."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield where, value, bounds
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            child, bounds = getattr(value, field.name), range_of(type(value), field.name)
            yield from _numbers(child, f"{where}.{field.name}".lstrip("."), bounds)
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _numbers(child, f"{where}.{key}")
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _numbers(child, f"{where}[{index}]")
