"""What the lm-eval models that score lists of token ids share: prompts, windows, order of the answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from tqdm import tqdm  # type: ignore[import-untyped]

from wrinklefree_eval.chatting import Chatting
from wrinklefree_eval.errors import EvalError


def check_answers(requests: Sequence[tuple[Any, list[int], list[int]]]) -> None:
    """Raises EvalError for an answer without a token, which has no likelihood; names its question.

    Args:
        requests: (question and answer as texts, or None; ids of the question; ids of the answer).
    """
    for key, _, answer in requests:
        if not answer:
            question, text = key or ("", "")
            raise EvalError(
                f"the answer {text!r:.60} to {question[-60:]!r} has no token to be scored: give the task's "
                "items answers that are not empty"
            )


class TokenLM(Chatting, TemplateLM):
    """Multiple choice and rolling log-likelihood.

    Attributes:
        scoring: What the progress bar says.
        max_length: Inputs; the last scored token is not one.
    """

    scoring: ClassVar[str]
    max_length: int
    _prefix_ids: list[int]
    """Ids that the model's tokenizer puts before every text."""

    @abstractmethod
    def _parsed(self, text: str) -> list[int]:
        """Ids of a text whose special tokens are parsed, without any before it."""

    @abstractmethod
    def _scored(self, ids: list[int], start: int, asks_greedy: bool) -> tuple[float, bool]:
        """Log-likelihood of ids[start:], each given all before it, and whether they are the likeliest ones.

        Args:
            asks_greedy: Whether the second is asked for.
        """

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_kwargs: Any) -> list[int]:
        """Ids of a prompt; special tokens in it are parsed, and BOS is added if the model does so."""
        ids, prefix = self._parsed(string), self._prefix_ids
        if add_special_tokens is False or ids[: len(prefix)] == prefix:
            return ids
        return prefix + ids

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_kwargs: Any,
    ) -> list[tuple[float, bool]]:
        check_answers(requests)
        found = []
        for key, context, answer in tqdm(requests, disable=disable_tqdm, desc=self.scoring):
            ids = (context + answer)[-(self.max_length + 1) :]
            result = self._scored(ids, max(1, len(ids) - len(answer)), key is not None)
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
