"""GGUF files in this process, by the llama.cpp inside `xllamacpp`.

Chat and completion go through llama.cpp's server on a random loopback port, guarded by a random
key (it batches, caches prompts and applies the chat template); scoring goes through `GgufScorer`.
Each part is loaded when it is first used; the weights are memory-mapped, so both share them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from wrinklefree_inference.engines.base import (
    AnswerStream,
    Message,
    ModelFacts,
    Sampling,
    TokenScores,
)
from wrinklefree_inference.engines.openai import OpenAIEngine
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.llamacpp.gguf_file import check_gguf
from wrinklefree_inference.llamacpp.scorer import GgufScorer
from wrinklefree_inference.llamacpp.server import start_server
from wrinklefree_inference.options import (
    ClientOptions,
    EngineOptions,
    ListenOptions,
    LlamaCppServerOptions,
    ServedEngineOptions,
)


class LlamaCppEngine:
    """One GGUF file: an `Engine` and a `Scorer`.

    Args:
        path: GGUF file.
        options: Context (longest request with its answer, and longest list of ids to score) and threads.

    Raises:
        EngineError: The file is missing or no GGUF. What llama.cpp itself refuses is raised, with
            its reason, by the first use.
    """

    def __init__(self, path: str | Path, options: EngineOptions | None = None) -> None:
        self.path = check_gguf(path)
        self.options = options or EngineOptions()
        self._server: Any = None
        self._closed = False

    @cached_property
    def facts(self) -> ModelFacts:
        """Name, size of the file, parameters, context and weight type."""
        return replace(self._client.facts, size_bytes=self.path.stat().st_size)

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> AnswerStream:
        """The assistant's next turn, through the chat template in the file."""
        return self._client.chat(messages, sampling)

    def complete(self, prompt: str, sampling: Sampling) -> AnswerStream:
        """The continuation of plain text."""
        return self._client.complete(prompt, sampling)

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, without special tokens around it."""
        return self.scorer.tokenize(text)

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        """Scores of ids[start:], each given all ids before it."""
        return self.scorer.score(ids, start)

    def close(self) -> None:
        """Stop the server and free the models; calling it again does nothing."""
        self._closed = True
        if client := self.__dict__.pop("_client", None):
            client.close()
        self._server = None  # its destructor stops it
        if scorer := self.__dict__.pop("scorer", None):
            scorer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @cached_property
    def scorer(self) -> GgufScorer:
        """The scoring half."""
        self._check_open()
        options = self.options
        return GgufScorer(
            self.path, options.context_tokens_or_default, options.num_threads, adapter=options.adapter
        )

    @cached_property
    def _client(self) -> OpenAIEngine:
        self._check_open()
        key = secrets.token_urlsafe(16)
        listen = ListenOptions(port=0, api_key=[key])
        options = self.options
        engine = ServedEngineOptions(options.context_tokens, options.num_threads, options.adapter)
        self._server = start_server(LlamaCppServerOptions(self.path, listen, engine, num_parallel=1))
        return OpenAIEngine(self._server.listening_address, ClientOptions(api_key=key))

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"the engine of {self.path} is closed")
