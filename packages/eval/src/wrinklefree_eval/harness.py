"""An engine as an lm-eval model.

lm-eval's own `gguf` model asks a server for `echo` log-probabilities, which llama.cpp's server does
not have; this one scores whole sequences through the engine. Requests are cut from the left to the
context, as lm-eval's `HFLM` does, so both see the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tqdm import tqdm  # type: ignore[import-untyped]

from data_handler.conversations import ConversationTemplate
from wrinklefree_eval.chatting import prompt_room
from wrinklefree_eval.token_lm import TokenLM
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


class EngineLM(TokenLM):
    """Multiple choice, rolling log-likelihood and generation.

    Args:
        engine: Scores and generates.
        vocabulary: Of its model.
        context_tokens: Longest list of ids that it scores.
        prefix_ids: Ids that the model's tokenizer puts before every text.
        make_template: Its chat template, asked for when a task needs it.
    """

    scoring = "Scoring with llama.cpp"

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

    def _parsed(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text, parse_special=True)

    def _scored(self, ids: list[int], start: int, asks_greedy: bool) -> tuple[float, bool]:
        scores = self._engine.score(ids, start)
        return float(scores.logprobs.sum()), bool(scores.is_greedy.all())

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
