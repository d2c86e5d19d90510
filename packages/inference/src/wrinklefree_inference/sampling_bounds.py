"""What the options of drawing may be: decided once, for engines, the command line and HTTP alike.

Those that a model's generation_config.json may state too have their bounds in `wf_formats.generation`.

Numbers become float32 in the sampler, so the bounds keep away from what float32 cannot hold: a penalty of
1e-46 would be zero, a temperature of 1e39 infinite. Small values of temperature, top_p and min_p may round
to zero, which means greedy, the most probable token alone, and off.
"""

from __future__ import annotations

from wf_formats.bounds import INT32_MAX, Bounds
from wf_formats.errors import RequestError
from wf_formats.generation import SAMPLING_BOUNDS

MAX_LOGPROBS = 20

BOUNDS = SAMPLING_BOUNDS | {
    "presence_penalty": Bounds(-2, 2, note="0 is off"),
    "frequency_penalty": Bounds(-2, 2, note="0 is off"),
    "seed": Bounds(-(2**63), 2**64 - 1),
    "max_tokens": Bounds(1, INT32_MAX),
    "logprobs": Bounds(0, MAX_LOGPROBS),
    "threshold": Bounds(0, 1, note="1 draws one token a pass"),
    "sub_block": Bounds(1, INT32_MAX),
}
"""What the native engine's sampler takes."""

BIAS_BOUNDS = Bounds(-100, 100)
"""Of a value of `logit_bias`: OpenAI's."""

API_BOUNDS = BOUNDS | {
    "temperature": Bounds(0, 2, note="0 is greedy"),
    "top_k": Bounds(-1, INT32_MAX, note="0 and -1 are off"),
    "seed": Bounds(-(2**63), 2**63 - 1),
    "max_tokens": Bounds(-1, INT32_MAX, note="-1 is all that fits"),
    "max_completion_tokens": Bounds(-1, INT32_MAX, note="-1 is all that fits"),
    "top_logprobs": BOUNDS["logprobs"],
    "logprobs": Bounds(0, 5),
}
"""By the fields of OpenAI's API, which is narrower here and there; -1 is what other servers understand."""


def check_bounds(values: dict[str, float | None]) -> None:
    """Raise RequestError for the first option outside its bounds (NaN is); None is not given."""
    for name, value in values.items():
        if value is not None and value not in BOUNDS[name]:
            raise RequestError(f"{name} must be {BOUNDS[name]}, got {value!r}")
