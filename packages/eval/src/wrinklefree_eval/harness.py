"""An engine as an lm-eval model.

lm-eval's own `gguf` model asks a server for `echo` log-probabilities, which llama.cpp's server does
not have; this one scores whole sequences through the engine. Requests are cut from the left to the
context, as lm-eval's `HFLM` does, so both see the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from tqdm import tqdm  # type: ignore[import-untyped]

from data_handler.conversations import ConversationTemplate
from wrinklefree_eval.chatting import Chatting, prompt_room
from wrinklefree_inference import Sampling
from wrinklefree_inference.engines.base import Engine, Scorer

DEFAULT_GENERATED_TOKENS = 256  # as HFLM


class Vocabulary(Protocol):
    """A model's special tokens (-1: none) and the ids of prompts."""

    @property
    def bos_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    def tokenize(self, text: str, parse_special: bool = ...) -> list[int]: ...
    def detokenize(self, ids: Sequence[int]) -> str: ...


class ScoringEngine(Engine, Scorer, Protocol):
    """An engine that scores too."""


class EngineLM(Chatting, TemplateLM):
    """Multiple choice, rolling log-likelihood and generation.

    Args:
        engine: Scores and generates.
        vocabulary: Of its model.
        context_tokens: Longest list of ids that it scores.
        prefix_ids: Ids that the model's tokenizer puts before every text.
        make_template: Its chat template, asked for when a task needs it.
    """

    def __init__(
        self,
        engine: ScoringEngine,
        vocabulary: Vocabulary,
        context_tokens: int,
        prefix_ids: list[int],
        make_template: Callable[[], ConversationTemplate],
    ) -> None:
        super().__init__()
        self._make_template = make_template
        self._engine, self._vocabulary, self._prefix_ids = engine, vocabulary, prefix_ids
        self.max_length = context_tokens - 1  # inputs; the last scored token is not an input

    @property
    def eot_token_id(self) -> int:
        return self._vocabulary.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: BOS if there is one, as in HFLM."""
        return self._vocabulary.bos_id if self._vocabulary.bos_id >= 0 else self._vocabulary.eos_id

    @property
    def tokenizer_name(self) -> str:
        return self._engine.facts.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_kwargs: Any) -> list[int]:
        """Ids of a prompt; special tokens in it are parsed, and BOS is added if the model does so."""
        ids = self._vocabulary.tokenize(string, parse_special=True)
        prefix = self._prefix_ids
        if add_special_tokens is False or ids[: len(prefix)] == prefix:
            return ids
        return prefix + ids

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_kwargs: Any,
    ) -> list[tuple[float, bool]]:
        found = []
        for key, context, continuation in tqdm(requests, disable=disable_tqdm, desc="Scoring with llama.cpp"):
            ids = (context + continuation)[-(self.max_length + 1) :]
            scores = self._engine.score(ids, max(1, len(ids) - len(continuation)))
            result = (float(scores.logprobs.sum()), bool(scores.is_greedy.all()))
            found.append(result)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, result)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in disjoint windows."""
        totals = []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *utils.make_disjoint_window(window)) for window in windows]
            scored = self._loglikelihood_tokens(pairs, disable_tqdm=True)
            totals.append(sum(logprob for logprob, _ in scored))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy (or, if the task says so, sampled) continuations up to a stop text."""
        texts = []
        for prompt, options in tqdm(
            [request.args for request in requests], disable=disable_tqdm, desc="Generating"
        ):
            until = options.get("until") or []
            stop = (until,) if isinstance(until, str) else tuple(until)
            max_tokens = options.get("max_gen_toks", DEFAULT_GENERATED_TOKENS)
            sampling = Sampling(
                max_tokens=max_tokens,
                temperature=options.get("temperature", 0.0) if options.get("do_sample") else 0.0,
                stop=stop,
            )
            texts.append(self._engine.complete(self._fitted(prompt, max_tokens), sampling).text())
        return texts

    def _fitted(self, prompt: str, max_tokens: int) -> str:
        """The end of a prompt that leaves room for the answer."""
        room = prompt_room(self.max_length, max_tokens)
        ids = self.tok_encode(prompt)
        return prompt if len(ids) <= room else self._vocabulary.detokenize(ids[-room:])
