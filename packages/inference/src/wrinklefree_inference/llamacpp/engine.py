"""GGUF files in this process, by the llama.cpp inside `xllamacpp`.

Chat and completion go through llama.cpp's server (it batches, caches prompts and applies the chat template),
scoring through `GgufScorer`. Each is loaded when it is first used; both share the weights, which are mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from wrinklefree_inference.engines.base import TokenScores
from wrinklefree_inference.engines.local_server import LocalServerEngine
from wrinklefree_inference.llamacpp.gguf_file import check_gguf
from wrinklefree_inference.llamacpp.scorer import GgufScorer
from wrinklefree_inference.llamacpp.server import start_server
from wrinklefree_inference.options import (
    EngineOptions,
    ListenOptions,
    LlamaCppServerOptions,
    ServedEngineOptions,
)


class LlamaCppEngine(LocalServerEngine):
    """One GGUF file; also a `Scorer`.

    Args:
        path: GGUF file.
        options: Context (longest request with its answer, and longest list of ids to score) and threads.

    Raises:
        EngineError: The file is missing or no GGUF. What llama.cpp itself refuses is raised, with
            its reason, by the first use.
    """

    def __init__(self, path: str | Path, options: EngineOptions | None = None) -> None:
        super().__init__(check_gguf(path))
        self.options = options or EngineOptions()
        self._server: Any = None

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text, without special tokens around it."""
        return self.scorer.tokenize(text)

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        """Scores of ids[start:], each given all ids before it."""
        return self.scorer.score(ids, start)

    @cached_property
    def scorer(self) -> GgufScorer:
        """The scoring half."""
        self._check_open()
        options = self.options
        return GgufScorer(
            self.path, options.context_tokens_or_default, options.num_threads, adapter=options.adapter
        )

    def _start(self, listen: ListenOptions) -> str:
        options = self.options
        engine = ServedEngineOptions(options.context_tokens, options.num_threads, options.adapter)
        self._server = start_server(LlamaCppServerOptions(self.path, listen, engine, num_parallel=1))
        return str(self._server.listening_address)

    def _stop(self) -> None:
        self._server = None  # its destructor stops it
        if scorer := self.__dict__.pop("scorer", None):
            scorer.close()
