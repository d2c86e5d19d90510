"""What an engine is: the vocabulary of requests and answers that every engine, command and demo shares.

An `Engine` answers text requests. A `Scorer` gives the log-probability of given tokens (what
perplexity and multiple choice need); most servers cannot, so it is a protocol of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Protocol, Self, TypedDict, runtime_checkable

from wf_formats.errors import RequestError
from wf_formats.printable import number_of
from wrinklefree_inference.options import Flag
from wrinklefree_inference.sampling_bounds import BOUNDS, check_bounds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_LEAST_MEASURED_S = 0.05
"""Of a speed: a reader's thread waits up to 5 ms for its turn (sys.getswitchinterval), or a tenth of this."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def _limits(option: str) -> tuple[float, float]:
    return BOUNDS[option].minimum, BOUNDS[option].maximum


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; temperature 0 is greedy."""

    max_tokens: Annotated[int, Flag("--max-tokens", "Longest answer.", *_limits("max_tokens"))] = 512
    temperature: Annotated[float, Flag("--temperature", "0 is greedy.", *_limits("temperature"))] = 0.7
    top_p: Annotated[float, Flag("--top-p", "Nucleus sampling.", minimum=0.01, maximum=1)] = 0.95
    seed: Annotated[int | None, Flag("--seed", "Makes an answer repeatable.", *_limits("seed"))] = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = ("max_tokens", "temperature", "top_p", "seed")
        check_bounds({name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the model that answers; None where the engine does not say."""

    name: str
    size_bytes: int | None = None
    num_parameters: int | None = None
    context_tokens: int | None = None
    weight_type: str | None = None
    block_size: int | None = None
    """Tokens that a block-diffusion model denoises together; None: an autoregressive one, or unknown."""

    def rows(self) -> list[tuple[str, str]]:
        """(label, text for people) of each known fact."""
        rows = [("model", self.name)]
        if self.size_bytes is not None:
            rows.append(("size", f"{self.size_bytes / 1e6:,.1f} MB"))
        if self.num_parameters is not None:
            rows.append(("parameters", f"{self.num_parameters / 1e6:,.1f} million"))
        if self.weight_type is not None:
            rows.append(("weights", self.weight_type))
        if self.context_tokens is not None:
            rows.append(("context", number_of(self.context_tokens, "token")))
        if self.block_size is not None:
            rows.append(("block diffusion", f"blocks of {number_of(self.block_size, 'token')}"))
        return rows


@dataclass(frozen=True)
class Usage:
    """What an answer cost.

    Attributes:
        prompt_tokens: Tokens of the request after the chat template.
        completion_tokens: Tokens of the answer.
        first_token_s: Seconds from the request to the first piece of text.
        total_s: Seconds from the request to the end of the answer.
        first_tokens: Tokens of the answer that came with the first piece of text.
    """

    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    total_s: float
    first_tokens: int = 1

    @property
    def tokens_per_second(self) -> float | None:
        """Generation speed after the first piece; None for answers that came all at once, or so soon after it
        that they were there already when it was read."""
        generation_s = self.total_s - self.first_token_s
        num_later = self.completion_tokens - self.first_tokens
        return num_later / generation_s if num_later > 0 and generation_s >= _LEAST_MEASURED_S else None

    def __str__(self) -> str:
        speed = self.tokens_per_second
        rate = f", {speed:.1f} tokens/s" if speed is not None else ""
        first = f"first after {self.first_token_s:.2f} s"
        return f"{number_of(self.completion_tokens, 'token')}{rate}, {first}"


class Counts(NamedTuple):
    """Tokens of an answer, as of `Usage`; first_tokens None: not known, and taken to be one."""

    prompt_tokens: int
    completion_tokens: int
    first_tokens: int | None = None


class AnswerStream:
    """Iterator over the pieces of an answer; `usage` is there once it has been read to its end.

    The source yields text pieces and, last, one `Counts`.
    """

    def __init__(self, source: Iterable[str | Counts]) -> None:
        self.usage: Usage | None = None
        self._pieces = self._timed(source)

    def _timed(self, source: Iterable[str | Counts]) -> Iterator[str]:
        start_s, first_s, num_pieces = time.perf_counter(), None, 0
        for item in source:
            if first_s is None:
                first_s = time.perf_counter() - start_s
            if isinstance(item, str):
                num_pieces += 1
                yield item
            else:
                prompt, completion, first = item
                first = completion if num_pieces < 2 else first or 1
                self.usage = Usage(prompt, completion, first_s, time.perf_counter() - start_s, first)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def text(self) -> str:
        """Everything that is left to read."""
        return "".join(self)


class Engine(Protocol):
    """Answers requests with one model."""

    @property
    def facts(self) -> ModelFacts:
        """The model's name, size, parameters and context.

        Raises:
            EngineError: The model cannot be loaded or the server does not answer.
        """

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> AnswerStream:
        """The assistant's next turn, through the model's own chat template."""

    def complete(self, prompt: str, sampling: Sampling) -> AnswerStream:
        """The continuation of plain text, without a template."""

    def close(self) -> None:
        """Free the model; the engine cannot be used afterwards."""


@dataclass(frozen=True)
class TokenScores:
    """Scores of n tokens, given what stands before each.

    Attributes:
        ids: The tokens, int64 [n].
        logprobs: Their natural log-probabilities, float64 [n].
        best: The most probable token in the place of each, int64 [n].
    """

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    best: NDArray[np.int64]

    @property
    def is_greedy(self) -> NDArray[np.bool_]:
        """Whether the token is the most probable one, bool [n]."""
        return self.best == self.ids

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability."""
        return math.exp(-float(self.logprobs.mean()))


def check_scored_range(num_ids: int, start: int, context_tokens: int) -> None:
    """Raise ValueError unless ids[start:] of `num_ids` ids can be scored in the context."""
    if num_ids > context_tokens:
        raise RequestError(f"{num_ids} ids do not fit the context of {context_tokens} tokens")
    if not 1 <= start < num_ids:
        raise RequestError(f"start must be in [1, {num_ids - 1}], got {start}")


@runtime_checkable
class Scorer(Protocol):
    """Gives log-probabilities of given tokens."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, without special tokens around it."""

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        """Scores of ids[start:], each given all ids before it."""
