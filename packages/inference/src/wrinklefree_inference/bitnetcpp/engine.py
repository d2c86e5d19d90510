"""GGUF files in bitnet.cpp: its server on a random loopback port, guarded by a random key."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from wrinklefree_inference.bitnetcpp.program import find_program
from wrinklefree_inference.bitnetcpp.server import BitnetCppServer, start_server
from wrinklefree_inference.engines.base import AnswerStream, Message, ModelFacts, Sampling
from wrinklefree_inference.engines.openai import OpenAIEngine
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.llamacpp.gguf_file import check_gguf
from wrinklefree_inference.options import (
    BitnetCppOptions,
    BitnetCppServerOptions,
    ClientOptions,
    ListenOptions,
)


class BitnetCppEngine:
    """One GGUF file: an `Engine`. The server is started when it is first used.

    Args:
        path: GGUF file.
        options: Where the user's build is, context and threads.

    Raises:
        EngineError: The file is missing or no GGUF. What bitnet.cpp itself refuses is raised, with what it
            said, by the first use.
        RequestError: There is no build.
    """

    def __init__(self, path: str | Path, options: BitnetCppOptions | None = None) -> None:
        self.path = check_gguf(path)
        self.options = options or BitnetCppOptions()
        find_program(self.options.build)
        self._server: BitnetCppServer | None = None
        self._closed = False

    @cached_property
    def facts(self) -> ModelFacts:
        """What the server says, and the size of the file."""
        return replace(self._client.facts, size_bytes=self.path.stat().st_size)

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> AnswerStream:
        """The assistant's next turn, through the chat template that bitnet.cpp takes for the file's."""
        return self._client.chat(messages, sampling)

    def complete(self, prompt: str, sampling: Sampling) -> AnswerStream:
        """The continuation of plain text."""
        return self._client.complete(prompt, sampling)

    def close(self) -> None:
        """Stop the server; calling it again does nothing."""
        self._closed = True
        if client := self.__dict__.pop("_client", None):
            client.close()
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @cached_property
    def _client(self) -> OpenAIEngine:
        if self._closed:
            raise EngineError(f"the engine of {self.path} is closed")
        key = secrets.token_urlsafe(16)
        listen = ListenOptions(port=0, api_key=[key])
        self._server = start_server(BitnetCppServerOptions(self.path, listen, self.options, num_parallel=1))
        return OpenAIEngine(self._server.url, ClientOptions(api_key=key))
