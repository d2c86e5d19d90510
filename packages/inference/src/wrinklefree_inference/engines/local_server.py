"""An engine behind a server that is started for it: on a random loopback port, guarded by a random key."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from wrinklefree_inference.engines.base import AnswerStream, Message, ModelFacts, Sampling
from wrinklefree_inference.engines.openai import OpenAIEngine
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import ClientOptions, ListenOptions


class LocalServerEngine(ABC):
    """One file: an `Engine`. The server is started when it is first used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closed = False

    @cached_property
    def facts(self) -> ModelFacts:
        """What the server says, and the size of the file."""
        return replace(self._client.facts, size_bytes=self.path.stat().st_size)

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> AnswerStream:
        """The assistant's next turn, through the chat template that the server takes for the file's."""
        return self._client.chat(messages, sampling)

    def complete(self, prompt: str, sampling: Sampling) -> AnswerStream:
        """The continuation of plain text."""
        return self._client.complete(prompt, sampling)

    def close(self) -> None:
        """Stop the server; calling it again does nothing."""
        self._closed = True
        if client := self.__dict__.pop("_client", None):
            client.close()
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @abstractmethod
    def _start(self, listen: ListenOptions) -> str:
        """Start the server; returns its URL. Raises: EngineError with the server's reason."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop it, if it runs."""

    @cached_property
    def _client(self) -> OpenAIEngine:
        self._check_open()
        key = secrets.token_urlsafe(16)
        url = self._start(ListenOptions(port=0, api_key=[key]))
        return OpenAIEngine(url, ClientOptions(api_key=key))

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"the engine of {self.path} is closed")
