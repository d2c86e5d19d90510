"""lm-eval's `HFLM` with our rendering of chats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.models.huggingface import HFLM

from data_handler.conversations import ConversationTemplate
from wrinklefree_eval.chatting import Chatting, prompt_room
from wrinklefree_eval.token_lm import check_answers


class ChatHFLM(Chatting, HFLM):
    """Args: options are those of `HFLM`."""

    def __init__(self, make_template: Callable[[], ConversationTemplate], **options: Any) -> None:
        super().__init__(**options)
        self._make_template = make_template

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], *args: Any, **options: Any
    ) -> list[tuple[float, bool]]:
        """As `HFLM`. Raises: EvalError where that has an assertion."""
        check_answers(requests)
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **options)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """As `HFLM`. Raises: EvalRequestError where that has an assertion."""
        for _, options in (request.args for request in requests):
            prompt_room(self.max_length, options.get("max_gen_toks", self.max_gen_toks))
        texts: list[str] = super().generate_until(requests, disable_tqdm)
        return texts
