"""What the lm-eval models of all kinds share: chats are rendered as training renders them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from data_handler.conversations import ConversationTemplate
from wrinklefree_eval.errors import EvalRequestError


class Chatting:
    """Puts questions into the model's chat template; goes before the lm-eval class that encodes texts.

    lm-eval's own rendering leaves the system message out where a template fails, and knows no engine.
    """

    _make_template: Callable[[], ConversationTemplate]
    tok_encode: Callable[..., list[int]]

    @cached_property
    def _prompts(self) -> set[str]:
        """What was rendered."""
        return set()

    @cached_property
    def _conversations(self) -> ConversationTemplate:
        return self._make_template()

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of one question, up to where the words of the answer begin."""
        assert add_generation_prompt
        (question,) = chat_history
        prompt = self._conversations.prompt(question["content"])
        self._prompts.add(prompt)
        return prompt

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a prompt and of the answer to it.

        lm-eval counts white space at the end of a prompt to the answer. That of a template is not the
        model's to say, so here it stays with the prompt, where both can be told apart.
        """
        if context in self._prompts:
            prompt, whole = self.tok_encode(context), self.tok_encode(context + continuation)
            if whole[: len(prompt)] == prompt:
                return prompt, whole[len(prompt) :]
        inherited: Any = super()
        pair: tuple[list[int], list[int]] = inherited._encode_pair(context, continuation)
        return pair


def prompt_room(max_length_tokens: int, max_answer_tokens: int) -> int:
    """Tokens that a prompt may have. Raises: EvalRequestError for a context that has none left."""
    if max_length_tokens <= max_answer_tokens:
        raise EvalRequestError(
            f"the task generates up to {max_answer_tokens} tokens, and a context of {max_length_tokens + 1} "
            "leaves no room for its prompt: set --context higher"
        )
    return max_length_tokens - max_answer_tokens
