"""One interface over the engines: feed tokens to some sequences, get the likeliest next token of each."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wf_formats.errors import RequestError
from wrinklefree_inference.bench.plan import CHUNK_TOKENS, Test
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.options import CacheType

if TYPE_CHECKING:
    from ternary_kernels.weights import ModelWeights


class Runner(Protocol):
    """A loaded model with room for some sequences."""

    vocab_size: int
    facts: dict[str, Any]

    def reset(self) -> None:
        """Forget all sequences."""

    def step(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        """Append int32 tokens[i] to sequence i; the greedy next token of each, int32 [sequences]."""


def seconds_of(runner: Runner, test: Test, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one run of a test by `clock`, on the same random tokens every time."""
    rng = np.random.default_rng(0)
    runner.reset()
    before = rng.integers(0, runner.vocab_size, (test.sequences, test.tokens_before), np.int32)
    following = _read(runner, before)
    if test.kind == "prompt":
        prompt = rng.integers(0, runner.vocab_size, (1, test.tokens), np.int32)
        start = clock()
        _read(runner, prompt)
        return clock() - start
    start = clock()
    for _ in range(test.tokens):
        following = runner.step(list(following[:, None]))
    return clock() - start


def _read(runner: Runner, tokens: np.ndarray) -> np.ndarray:
    """Feeds int32 [sequences, tokens] in pieces of at most CHUNK_TOKENS; what follows each sequence."""
    following = np.empty(0, np.int32)
    width = max(CHUNK_TOKENS // len(tokens), 1)
    for begin in range(0, tokens.shape[1], width):
        following = runner.step(list(tokens[:, begin : begin + width]))
    return following


class NativeRunner:
    """ternary_kernels: `load_model` and `Decoder.forward`, nothing between."""

    def __init__(
        self,
        model: Path,
        adapter: Path | None,
        cache_type: CacheType,
        threads: int,
        context_tokens: int,
        num_sequences: int,
    ) -> None:
        import ternary_kernels as tk
        from ternary_kernels.large_pages import large_page_share
        from ternary_kernels.loading import load_model
        from wrinklefree_inference.native.master_weights import quantize_master

        weights = _with_screen(load_model(model, quantize_master, adapter), model)
        if context_tokens > (most := weights.config.context_tokens):
            raise RequestError(f"{model} has a context of {most} tokens, the tests need {context_tokens}")
        pages = -(-context_tokens // tk.PAGE_TOKENS)
        self._decoder = tk.Decoder(weights, num_sequences * pages, cache_type.value, threads)
        self._pages = np.arange(num_sequences * pages, dtype=np.int32).reshape(num_sequences, pages)
        self._contexts = np.zeros(num_sequences, np.int32)
        self.vocab_size = weights.config.vocab_size
        head = "full" if weights.screen is None else "screened"
        self.facts = {
            "kernels": tk.info(),
            "cache_type": cache_type,
            "head": head,
            "large_page_share": large_page_share(weights),
        }

    def reset(self) -> None:
        self._contexts[:] = 0

    def step(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        count = len(tokens)
        starts = np.cumsum([0] + [len(part) for part in tokens], dtype=np.int32)
        greedy = np.ones(count, np.int32), np.zeros(count, np.float32)
        contexts, pages = self._contexts[:count], self._pages[:count]
        logits = self._decoder.forward(
            np.concatenate(tokens), starts, contexts, pages, starts[1:] - 1, greedy
        )
        self._contexts[:count] += np.diff(starts)
        return logits.argmax(axis=-1).astype(np.int32)


def _with_screen(weights: ModelWeights, model: Path) -> ModelWeights:
    """As it is served; a file of random weights has no tokenizer, and gets no screen."""
    from ternary_kernels.screen import with_screen
    from wf_formats.tokenizer import TokenizerError, read_tokenizer

    try:
        return with_screen(weights, read_tokenizer(model))
    except TokenizerError:
        return weights


class LlamaCppRunner:
    """llama.cpp's own batch calls, through the C interface of xllamacpp; with an f16 cache."""

    def __init__(
        self,
        model: Path,
        adapter: Path | None,
        cache_type: CacheType,
        threads: int,
        context_tokens: int,
        num_sequences: int,
    ) -> None:
        from wrinklefree_inference.llamacpp import api as llama
        from wrinklefree_inference.llamacpp.gguf_file import check_gguf, check_model
        from wrinklefree_inference.llamacpp.handles import ContextOptions, load_model, new_context
        from wrinklefree_inference.llamacpp.scorer import CONTEXT_GRANULARITY_TOKENS

        self._llama, self._api = llama, llama.library()
        beside = check_model(check_gguf(model), adapter)
        self._model = load_model(model)
        rounded = -(-context_tokens // CONTEXT_GRANULARITY_TOKENS) * CONTEXT_GRANULARITY_TOKENS
        room = rounded * num_sequences
        batch_tokens = min(room, max(CHUNK_TOKENS, num_sequences))
        options = ContextOptions(room, batch_tokens, threads, num_sequences)
        self._context = new_context(self._model, options, beside)
        self._batch = self._api.llama_batch_ext_init(self._context)
        self._positions = [0] * num_sequences
        self.vocab_size: int = self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(self._model))
        self.facts: dict[str, Any] = {"cache_type": options.cache_type}

    def reset(self) -> None:
        memory = self._api.llama_get_memory(self._context)
        for sequence in range(len(self._positions)):
            if not self._api.llama_memory_seq_rm(memory, sequence, -1, -1):
                raise EngineError(f"llama.cpp could not forget sequence {sequence}")
            self._positions[sequence] = 0

    def step(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        self._api.llama_batch_ext_clear(self._batch)
        lasts = [self._add(sequence, part) for sequence, part in enumerate(tokens)]
        with self._llama.captured_log() as messages:
            status = self._api.llama_process(self._context, self._llama.PROCESS_DECODE, self._batch)
        if status != 0:
            raise EngineError(f"llama.cpp could not process a batch (code {status}): {messages}")
        following = [self._logits(last).argmax() for last in lasts]
        return np.array(following, np.int32)

    def _add(self, sequence: int, tokens: np.ndarray) -> int:
        """Puts a sequence's tokens into the batch; the last one's index."""
        for token in tokens.tolist():
            index = self._api.llama_batch_ext_add_token(self._batch, sequence, token)
            position = ctypes.c_int32(self._positions[sequence])
            self._positions[sequence] += 1
            assert index >= 0, (sequence, index)
            assert self._api.llama_batch_ext_set_pos(self._batch, index, ctypes.byref(position))
            self._api.llama_batch_ext_set_output_logits(self._batch, index, False)
        assert self._api.llama_batch_ext_set_output_logits(self._batch, index, True)
        return int(index)

    def _logits(self, index: int) -> np.ndarray:
        pointer = self._api.llama_get_logits_ith(self._context, index)
        assert pointer, index
        return np.ctypeslib.as_array(pointer, (self.vocab_size,))


RUNNERS: dict[str, type[NativeRunner] | type[LlamaCppRunner]] = {
    "native": NativeRunner,
    "llamacpp": LlamaCppRunner,
}
