"""Log-probabilities of given tokens from a GGUF file, at llama.cpp's prompt speed.

For ids t_0 .. t_{n-1}:
1. t_0 .. t_{n-2} are processed in batches of `batch_tokens`; those before start - 1 that the KV cache
   holds from the call before are not processed again (the endings of a multiple choice share it);
2. for each position i >= start - 1 the logits are asked for, and
   logprob(t_{i+1}) = logits[t_{i+1}] - logsumexp(logits), summed in float64.

Cost: one prompt evaluation (SmolLM2-135M Q4_1: 150-175 tokens/s on one thread of a Xeon with
AVX-512), and `batch_tokens` x vocabulary floats of memory. The server's own way, one request per
token with the wanted token forced by `logit_bias`, has the speed of generation and gives the same
values (tests/test_llamacpp_scorer.py compares them).

Accuracy against transformers in fp32 on the same weights (511 random tokens of SmolLM2-135M, largest
and mean difference): f32 file 0.0043 and 0.0007 (the KV cache is f16; with cache_type f32 below
0.0001), f16 file 0.019 and 0.004, Q4_1 file 0.41 and 0.09 (llama.cpp quantizes activations to int8 per
block of 32).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wrinklefree_inference.engines.base import TokenScores, check_scored_range
from wrinklefree_inference.engines.log_softmax import log_softmax_at
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.llamacpp import api as llama
from wrinklefree_inference.llamacpp.gguf_file import check_gguf, check_model
from wrinklefree_inference.llamacpp.handles import CacheNumbers, ContextOptions, load_model, new_context
from wrinklefree_inference.options import EngineOptions

CONTEXT_GRANULARITY_TOKENS = 256  # llama.cpp rounds a context up to a multiple of it


class GgufScorer:
    """One model and one context; not safe to use from several threads at once.

    Args:
        path: GGUF file.
        context_tokens: Longest list of ids that can be scored.
        num_threads: None takes all cores that this process may use.
        batch_tokens: Positions whose logits are held at once.
        cache_type: Numbers of the key-value cache; f32 adds no rounding of its own (proofs).
        flash_attention: False forbids it; True leaves it to llama.cpp.
        adapter: GGUF file with low-rank corrections of the model (a LoRA adapter).

    Raises:
        EngineError: A file is missing, no GGUF, or refused by llama.cpp (with its reason); or the model has
            corrections and no adapter was given.
    """

    def __init__(
        self,
        path: str | Path,
        context_tokens: int = 1024,
        num_threads: int | None = None,
        batch_tokens: int = 256,
        cache_type: CacheNumbers = "f16",
        flash_attention: bool = True,
        adapter: Path | None = None,
    ) -> None:
        self.path = check_gguf(path)
        self.adapter = check_model(self.path, adapter)
        self.context_tokens = context_tokens
        self._model = load_model(self.path)
        room = -(-context_tokens // CONTEXT_GRANULARITY_TOKENS) * CONTEXT_GRANULARITY_TOKENS
        self._batch_tokens = min(batch_tokens, room)
        threads = EngineOptions(num_threads=num_threads).num_threads_or_all
        options = ContextOptions(room, self._batch_tokens, threads, 1, cache_type, flash_attention)
        api = llama.library()
        try:
            self._context = new_context(self._model, options, self.adapter)
        except EngineError:
            api.llama_model_free(self._model)
            raise
        self._batch = api.llama_batch_ext_init(self._context)
        self._processed: list[int] = []  # the ids whose keys and values the cache holds
        if self.adapter is not None:
            with llama.captured_log():  # the first call makes room for it, and says so at length
                self._process([0], 0, 1, 1)
        self._vocab = api.llama_model_get_vocab(self._model)
        self.vocab_size: int = api.llama_vocab_n_tokens(self._vocab)
        self.num_parameters: int = api.llama_model_n_params(self._model)
        self.trained_context_tokens: int = api.llama_model_n_ctx_train(self._model)
        self.eos_id: int = api.llama_vocab_eos(self._vocab)
        self.bos_id: int = api.llama_vocab_bos(self._vocab)
        self.adds_bos: bool = api.llama_vocab_get_add_bos(self._vocab)

    def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        """Ids of `text` without special tokens around it.

        Args:
            text: Any text.
            parse_special: Whether text such as `<|im_start|>` becomes the special token.
        """
        data = text.encode()
        room = len(data) + 8  # a token covers at least one byte; some tokenizers add a space
        ids = (ctypes.c_int32 * room)()
        count = llama.library().llama_tokenize(self._vocab, data, len(data), ids, room, False, parse_special)
        if count < 0:
            raise EngineError(f"llama.cpp could not tokenize {text[:80]!r} into {room} tokens")
        return list(ids[:count])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens included."""
        api, array = llama.library(), (ctypes.c_int32 * len(ids))(*ids)
        room = 32 * len(ids) + 32
        buffer = ctypes.create_string_buffer(room)
        size = api.llama_detokenize(self._vocab, array, len(ids), buffer, room, False, True)
        if size < 0:  # the buffer was too small and -size says what is needed
            room = -size
            buffer = ctypes.create_string_buffer(room)
            size = api.llama_detokenize(self._vocab, array, len(ids), buffer, room, False, True)
        return buffer.raw[:size].decode("utf-8", "replace")

    def score(self, ids: Sequence[int], start: int = 1) -> TokenScores:
        """Scores of ids[start:], each given all ids before it.

        Args:
            ids: Token ids, at least two and at most `context_tokens`.
            start: First position to score, in [1, len(ids) - 1].

        Raises:
            ValueError: Too many ids, an id outside the vocabulary, or a bad `start`.
        """
        self._check(ids, start)
        kept = self._keep_prefix(ids[: start - 1])
        targets = np.asarray(ids[start:], dtype=np.int64)
        logprobs, best = np.empty(len(targets)), np.empty(len(targets), dtype=np.int64)
        for begin in range(kept, len(ids) - 1, self._batch_tokens):
            end = min(begin + self._batch_tokens, len(ids) - 1)
            self._process(ids, begin, end, start)
            for i in range(max(begin, start - 1), end):
                row = slice(i + 1 - start, i + 2 - start)
                logprobs[row], best[row] = log_softmax_at(self._logits(i - begin), targets[row])
        return TokenScores(targets, logprobs, best)

    def close(self) -> None:
        """Free context and model; calling it again does nothing."""
        if self._model:
            api = llama.library()
            with llama.captured_log():  # it reports its buffers when it goes
                api.llama_batch_ext_free(self._batch)
                api.llama_free(self._context)
                api.llama_model_free(self._model)
            self._model = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _check(self, ids: Sequence[int], start: int) -> None:
        if not self._model:
            raise ValueError("the scorer is closed")
        check_scored_range(len(ids), start, self.context_tokens)
        if outside := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise ValueError(f"id {outside[0]} is outside the vocabulary of {self.vocab_size}")

    def _keep_prefix(self, ids: Sequence[int]) -> int:
        """Forget what the cache holds beyond its common prefix with `ids`; that prefix's length."""
        kept = 0
        for old, new in zip(self._processed, ids, strict=False):
            if old != new:
                break
            kept += 1
        api = llama.library()
        if not api.llama_memory_seq_rm(api.llama_get_memory(self._context), 0, kept, -1):
            raise EngineError(f"llama.cpp could not cut its cache at {kept} tokens")
        del self._processed[kept:]
        return kept

    def _process(self, ids: Sequence[int], begin: int, end: int, start: int) -> None:
        """Run ids[begin:end] through the model, asking for logits from position start - 1 on."""
        api = llama.library()
        api.llama_batch_ext_clear(self._batch)
        for i in range(begin, end):
            index = api.llama_batch_ext_add_token(self._batch, 0, ids[i])
            position = ctypes.c_int32(i)
            assert index == i - begin, (i, index)
            placed = api.llama_batch_ext_set_pos(self._batch, index, ctypes.byref(position))
            assert placed, i
            wanted = i >= start - 1 or i == end - 1  # a batch without any output is refused
            marked = api.llama_batch_ext_set_output_logits(self._batch, index, wanted)
            assert marked, i
        status = api.llama_process(self._context, llama.PROCESS_DECODE, self._batch)
        if status != 0:
            raise EngineError(f"llama.cpp could not process {end - begin} tokens (code {status})")
        self._processed.extend(ids[begin:end])

    def _logits(self, index: int) -> NDArray[np.float32]:
        """A copy of the logits [1, vocabulary] of a position of the last batch."""
        pointer = llama.library().llama_get_logits_ith(self._context, index)
        assert pointer, index
        return np.ctypeslib.as_array(pointer, (self.vocab_size,))[None].copy()
