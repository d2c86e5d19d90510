"""The sampler's arguments: the parameters of the sequences that are drawn from, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any, Protocol

import numpy as np

from wrinklefree_inference.native.constraint import Words
from wrinklefree_inference.native.request import GenerationRequest
from wrinklefree_inference.native.runner import Floats, Ints
from wrinklefree_inference.native.sequence import Sequence

Draws = tuple[Ints, Floats, list[Ints], list[Floats]]
Sampler = Callable[..., Draws]
"""`ternary_kernels.sample`: logits and `DrawParams.arguments` -> tokens, logprobs, top ids, top logprobs."""


class Drawn(Protocol):
    """What a token is drawn for: the next of a `Sequence`, or a place in a block of one."""

    @property
    def request(self) -> GenerationRequest:
        """Has the parameters."""

    @property
    def seed(self) -> int:
        """Of its draws."""

    @property
    def bias(self) -> tuple[Ints, Floats] | None:
        """Ids and values of `logit_bias`."""

    @property
    def num_generated(self) -> int:
        """Tokens of the answer before this one: the counter of its draw."""

    @property
    def history(self) -> Ints:
        """Tokens that are known before this one."""

    @property
    def answer(self) -> Ints:
        """Those of the answer."""


class DrawParams:
    """Of some draws; most change only with what is drawn for.

    What none of them uses is left out: the sampler has a default for it.
    """

    def __init__(self, drawn: SequenceOf[Drawn]) -> None:
        params = [sequence.request.sampling for sequence in drawn]
        self.drawn = drawn
        self._fixed: dict[str, Any] = {
            "temperature": np.array([p.temperature for p in params], np.float32),
            "top_k": np.array([p.top_k for p in params], np.int32),
            "top_p": np.array([p.top_p for p in params], np.float32),
            "min_p": np.array([p.min_p for p in params], np.float32),
            "repetition_penalty": np.array([p.repetition_penalty for p in params], np.float32),
            "seeds": np.array([sequence.seed for sequence in drawn], np.uint64),
            "num_logprobs": np.array([-1 if p.logprobs is None else p.logprobs for p in params], np.int32),
        }
        self._is_penalized = [p.repetition_penalty != 1 for p in params]
        self._is_counted = [bool(p.presence_penalty or p.frequency_penalty) for p in params]
        if any(self._is_counted):
            self._fixed["presence_penalty"] = np.array([p.presence_penalty for p in params], np.float32)
            self._fixed["frequency_penalty"] = np.array([p.frequency_penalty for p in params], np.float32)
        biases = [sequence.bias or (None, None) for sequence in drawn]
        if any(sequence.bias for sequence in drawn):
            self._fixed["bias_ids"] = [ids for ids, _ in biases]
            self._fixed["bias_values"] = [values for _, values in biases]

    def arguments(self, masks: Mapping[Any, Words]) -> dict[str, Any]:
        """All arguments of the sampler but the logits, each with one item for each sequence.

        Args:
            masks: Of those whose token is constrained.
        """
        nothing = np.empty(0, np.int32)
        arguments = self._fixed | {
            "history": [
                sequence.history if is_penalized else nothing
                for sequence, is_penalized in zip(self.drawn, self._is_penalized, strict=True)
            ],
            "counters": np.fromiter((s.num_generated for s in self.drawn), np.uint64, len(self.drawn)),
        }
        if any(self._is_counted):
            arguments["answers"] = [
                sequence.answer if is_counted else None
                for sequence, is_counted in zip(self.drawn, self._is_counted, strict=True)
            ]
        if masks:
            arguments["masks"] = [masks.get(sequence) for sequence in self.drawn]
        return arguments


def unruled_arguments(drawn: list[Sequence], ahead: list[int]) -> dict[str, Any]:
    """Arguments for draws so many tokens further on, as far as they do not depend on the tokens before.

    Temperature, filters, bias and seed are the requests'; penalties and masks are left out.
    """
    arguments = DrawParams(drawn).arguments({})
    for name in ("answers", "presence_penalty", "frequency_penalty"):
        arguments.pop(name, None)
    num = len(drawn)
    return arguments | {
        "repetition_penalty": np.ones(num, np.float32),
        "history": [np.empty(0, np.int32)] * num,
        "counters": arguments["counters"] + np.array(ahead, np.uint64),
        "num_logprobs": np.full(num, -1, np.int32),
    }
