"""What the options of drawing may be: decided here once, for engines, the command line and HTTP alike.

Numbers become float32 in the sampler, so the bounds keep away from what float32 cannot hold: a penalty of
1e-46 would be zero, a temperature of 1e39 infinite. Small values of temperature, top_p and min_p may round
to zero, which means greedy, the most probable token alone, and off.
"""

from __future__ import annotations

from dataclasses import dataclass

from wf_formats.errors import RequestError


@dataclass(frozen=True)
class Bounds:
    """A range of one option.

    Attributes:
        is_open: The minimum itself is excluded.
        note: What a special value means.
    """

    minimum: float
    maximum: float
    is_open: bool = False
    note: str = ""

    def __str__(self) -> str:
        low = f"{'(' if self.is_open else '['}{self.minimum}"
        return f"in {low}, {self.maximum}]" + (f" ({self.note})" if self.note else "")

    def __contains__(self, value: float) -> bool:
        is_above = value > self.minimum if self.is_open else value >= self.minimum
        return is_above and value <= self.maximum


INT32_MAX = 2**31 - 1
MAX_LOGPROBS = 20

BOUNDS = {
    "temperature": Bounds(0, 100, note="0 is greedy"),
    "top_p": Bounds(0, 1, is_open=True),
    "top_k": Bounds(0, INT32_MAX, note="0 is off"),
    "min_p": Bounds(0, 1, note="0 is off"),
    "repetition_penalty": Bounds(0.01, 10, note="1 is off"),
    "seed": Bounds(-(2**63), 2**64 - 1),
    "max_tokens": Bounds(1, INT32_MAX),
    "logprobs": Bounds(0, MAX_LOGPROBS),
}
"""What the native engine's sampler takes."""

API_BOUNDS = BOUNDS | {
    "temperature": Bounds(0, 2, note="0 is greedy"),
    "seed": Bounds(-(2**63), 2**63 - 1),
}
"""The same where OpenAI's API is narrower."""


def check_bounds(values: dict[str, float | None]) -> None:
    """Raise RequestError for the first option outside its bounds (NaN is); None is not given."""
    for name, value in values.items():
        if value is not None and value not in BOUNDS[name]:
            raise RequestError(f"{name} must be {BOUNDS[name]}, got {value!r}")
