"""`AsyncEngine`: all that the HTTP server knows of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from wrinklefree_inference.engines.base import ModelFacts
from wrinklefree_inference.native.constraint import TokenConstraint
from wrinklefree_inference.native.inbox import Inbox
from wrinklefree_inference.native.request import EngineStats, GenerationRequest
from wrinklefree_inference.tool_calls.forms import ToolForm


class AnswerGrammar(Protocol):
    """What answers are held to."""

    def new(self) -> TokenConstraint:
        """The state of one answer."""


class AsyncEngine(Protocol):
    """Answers many requests at a time; all methods are called from one asyncio loop."""

    @property
    def model_id(self) -> str:
        """Name that clients use."""

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model."""

    @property
    def context_tokens(self) -> int:
        """Longest prompt and answer together."""

    @property
    def embedding_size(self) -> int:
        """Numbers of an embedding."""

    @property
    def created(self) -> int:
        """Unix time of the start."""

    def tokenize_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Ids of a conversation in the model's chat template, which may know `variables` and `tools`.

        Raises:
            ValueError: The model has no template, or it refuses the messages.
        """

    def tool_form(self) -> ToolForm:
        """How the model writes calls; found by trying the chat template, which takes its time at first."""

    def compile(self, grammar: str, parts: Mapping[str, str]) -> AnswerGrammar:
        """A grammar that answers are held to; it takes its time.

        Args:
            parts: What the grammar is made of, by the field of the request that an error is to name.

        Raises:
            GrammarError: Nothing can be held to it.
        """

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, with the special tokens that the model expects before it."""

    def submit_to(self, inbox: Inbox, number: int, request: GenerationRequest) -> Callable[[], None]:
        """Queue a request whose deltas go to `inbox` under a number.

        Returns:
            What cancels it; nothing happens if it has ended.

        Raises:
            EngineBusy: The queue is full.
            RequestTooLong: Prompt and answer can never fit.
            BadField: The model cannot do what a field of the request asks.
            ValueError: The prompt is empty or has ids that the model does not know.
            EngineError: The engine is closed, draining or broken.
        """

    def stats(self) -> EngineStats:
        """A snapshot."""

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests, answer those that are there; cancel what is left after `timeout_s`."""

    async def close(self) -> None:
        """Cancel what runs and free the model."""
