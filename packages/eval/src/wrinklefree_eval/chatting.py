"""What the lm-eval models of all kinds share: chats are rendered as training renders them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from data_handler.conversations import ConversationTemplate
from wrinklefree_eval.errors import EvalRequestError


class Chatting:
    """Puts questions into the model's chat template.

    lm-eval's own rendering leaves the system message out where a template fails, and knows no engine.
    """

    _make_template: Callable[[], ConversationTemplate]

    @cached_property
    def _conversations(self) -> ConversationTemplate:
        return self._make_template()

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of one question, up to where the words of the answer begin."""
        assert add_generation_prompt
        (question,) = chat_history
        return self._conversations.prompt(question["content"])


def prompt_room(max_length_tokens: int, max_answer_tokens: int) -> int:
    """Tokens that a prompt may have. Raises: EvalRequestError for a context that has none left."""
    if max_length_tokens <= max_answer_tokens:
        raise EvalRequestError(
            f"the task generates up to {max_answer_tokens} tokens, and a context of {max_length_tokens + 1} "
            "leaves no room for its prompt: set --context higher"
        )
    return max_length_tokens - max_answer_tokens
