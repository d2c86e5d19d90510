"""The vocabulary that the scheduler, the engines and the HTTP server share.

A `GenerationRequest` goes in, `Delta`s come out.
Nothing here imports more than the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from wf_formats.errors import RequestError
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.sampling_bounds import BIAS_BOUNDS, BOUNDS, check_bounds

if TYPE_CHECKING:
    from wrinklefree_inference.native.constraint import TokenConstraint

FinishReason = Literal["stop", "length"]

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_BIASES = 1024


class EngineBusy(Exception):  # noqa: N818 - a state, not a fault
    """The queue is full.

    Attributes:
        retry_after_s: When a place is likely to be free.
    """

    def __init__(self, retry_after_s: float, queue_limit: int = 0) -> None:
        super().__init__(f"{queue_limit} requests are waiting already: try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class RequestTooLong(ValueError):  # noqa: N818
    """Prompt and answer cannot fit into the model's context or the cache, however long one waits."""


class BadField(RequestError):  # noqa: N818 - beside the states above
    """The model cannot do what one field of a request asks, other than its prompt.

    Attributes:
        field: Its name in `SamplingParams`.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class AnswerFailed(EngineError):  # noqa: N818 - beside the states above
    """One answer cannot go on, by what it asks of the model or of the server; the others do."""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn and when to stop; temperature 0 is greedy.

    Attributes:
        top_k: The most probable tokens that are kept; 0 keeps all.
        min_p: Smallest probability kept, as a share of the greatest.
        repetition_penalty: Above 1 makes tokens of the prompt and the answer less probable.
        presence_penalty: Taken from the logit of each token that the answer has already.
        frequency_penalty: The same, times the number of its occurrences.
        logit_bias: (token id, number) pairs; added to the logits before all else. -100 as good as forbids a
            token, 100 forces it.
        seed: Same seed, same text, whatever else runs; None draws one.
        max_tokens: Longest answer; 0 with `echo` alone.
        threshold, sub_block: Of block diffusion (`wf_formats.block_decoding`); None: the engine's.
        stop: Strings that end the answer; they are not part of it.
        logprobs: Alternatives reported per token (0: the chosen token's alone); None reports nothing.
        echo: Give the prompt out before the answer, with the log-probabilities of its tokens if `logprobs` is
            set; these are all computed, whatever the cache has.
        ignore_eos: Go on after the end-of-text token (benchmarks).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    ignore_eos: bool = False
    threshold: float | None = None
    sub_block: int | None = None

    def __post_init__(self) -> None:
        is_prompt_alone = self.echo and self.max_tokens == 0
        names = BOUNDS.keys() - {"max_tokens"} if is_prompt_alone else BOUNDS
        check_bounds({name: getattr(self, name) for name in names})
        ids = {token_id for token_id, _ in self.logit_bias}
        _check(len(ids) == len(self.logit_bias), "logit_bias", "one twice", "of different tokens")
        _check(len(ids) <= MAX_BIASES, "logit_bias", len(ids), f"of at most {MAX_BIASES} tokens")
        for token_id, value in self.logit_bias:
            if value not in BIAS_BOUNDS:
                _check(False, f"logit_bias of token {token_id}", value, str(BIAS_BOUNDS))
        _check(not isinstance(self.stop, str), "stop", self.stop, "a tuple of strings, not one string")
        _check(len(self.stop) <= MAX_STOPS, "stop", len(self.stop), f"at most {MAX_STOPS} strings")
        for text in self.stop:
            _check(0 < len(text) <= MAX_STOP_CHARS, "stop", text, f"1 to {MAX_STOP_CHARS} characters long")


def _check(is_valid: bool, field: str, value: object, expected: str) -> None:
    if not is_valid:
        raise RequestError(f"{field} must be {expected}, got {value!r}")


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt to continue.

    Attributes:
        id: Name in logs.
        client: Fairness key: clients take turns, whatever the number of their requests.
        constraint: Decides which tokens may come next; of this answer alone, since it has a state.
        embeds: The prompt's embedding is asked for (`embedding.py`), and no answer: nothing is drawn.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    id: str
    client: str = ""
    constraint: TokenConstraint | None = None
    embeds: bool = False

    @property
    def max_answer_tokens(self) -> int:
        """Tokens that may come after the prompt."""
        return 0 if self.embeds else self.sampling.max_tokens


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probability of one token, under the model itself (before temperature and penalties).

    Attributes:
        logprob: None of a prompt's first token, which nothing is before.
        bytes_: UTF-8 bytes of the token; a character may be spread over several tokens.
        top: The most probable tokens in its place: (id, text, bytes, logprob), best first.
    """

    token_id: int
    text: str
    bytes_: bytes
    logprob: float | None
    top: tuple[tuple[int, str, bytes, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """What one step added to an answer.

    Attributes:
        text: May be empty: half a character, or what could be the beginning of a stop string, is held back.
            Of a prompt that is given out too: its tokens' text, special ones included.
        token_ids: Tokens whose text ends in `text`; those of a stop string are never given out.
        logprobs: One per token of `token_ids`, if they were asked for.
        finish_reason: Set on the last delta alone.
        cached_prompt_tokens: Prompt tokens that were found in the cache.
        completion_tokens: Tokens drawn so far, with those held back and the end-of-text token.
        accepted_guesses, refused_guesses: Tokens so far that were computed before they were drawn
            (`speculation`): those that were drawn then, and those that were not.
        decoding_passes: Forward passes so far that drew tokens of the answer or, of blocks, computed them
            once more.
        embedding: Of the prompt, where that was asked for: float32, little-endian, of length 1.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    cached_prompt_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    accepted_guesses: int = 0
    refused_guesses: int = 0
    decoding_passes: int = 0
    embedding: bytes = b""

    def __add__(self, later: Delta) -> Delta:
        """Both as one."""
        return replace(
            later,
            text=self.text + later.text,
            token_ids=self.token_ids + later.token_ids,
            logprobs=self.logprobs + later.logprobs,
        )


@dataclass(frozen=True)
class EngineStats:
    """State and counters of an engine; `_total` ones only grow.

    Attributes:
        healthy: False once the engine has failed for good; `error` says how.
        restarts_total: Times that the engine has begun anew after a step failed.
        last_error: Kind of the latest failure (the name of its exception), None before the first.
        draining: No new requests are taken.
        kv_pages_used: Pages of running requests.
        kv_pages_cached: Pages kept only in case their prefix comes again.
        guessed_tokens_total: Guesses that were computed; `accepted_tokens_total` of these were drawn.
        decoding_passes_total: Forward passes that brought an answer on, each counted once for each answer.
        prefix_hit_tokens_total: Prompt tokens that did not have to be computed.
        preemptions_total: Times that a request gave up its pages to be computed again later.
        last_step_seconds: Duration of the latest step.
        step_seconds_total: Time in steps; `forward_seconds_total` is the decoder's share.
    """

    running: int = 0
    waiting: int = 0
    queue_limit: int = 0
    kv_pages_used: int = 0
    kv_pages_cached: int = 0
    kv_pages_total: int = 0
    prompt_tokens_total: int = 0
    generated_tokens_total: int = 0
    guessed_tokens_total: int = 0
    accepted_tokens_total: int = 0
    decoding_passes_total: int = 0
    prefix_hit_tokens_total: int = 0
    requests_total: int = 0
    finished_total: int = 0
    cancelled_total: int = 0
    preemptions_total: int = 0
    steps_total: int = 0
    last_step_seconds: float = 0.0
    step_seconds_total: float = 0.0
    forward_seconds_total: float = 0.0
    healthy: bool = True
    draining: bool = False
    error: str | None = None
    restarts_total: int = 0
    last_error: str | None = None
