"""Log-probabilities of a token sequence from a GGUF file in llama.cpp (in process, one thread).

llama.cpp's server answers with the log-probs of generated tokens only. So each position is one
request: the prompt is the tokens so far, one token is generated, and a logit bias makes sure that it
is the token that really follows. The reported log-prob is taken before the bias, so it is the
model's own; the best token is reported beside it. The prompt cache makes each request one step.

Cost: one decoding step per token, 8 to 15 ms on a 135M model with one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp

from wf_converter.errors import ExportError
from wf_converter.gguf_file import read_gguf
from wf_converter.scores import TokenScores

FORCING_BIAS = 1e6
CACHE_F32 = 0
"""`ggml_type` F32: the default fp16 key/value cache would add a rounding that no export is at fault for."""


@contextmanager
def llamacpp_server(path: Path, context_tokens: int) -> Iterator[Any]:
    """A running in-process server for a GGUF file.

    Raises:
        ExportError: llama.cpp refuses the file.
    """
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context_tokens
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type(CACHE_F32)
    params.flash_attn_type = xllamacpp.llama_flash_attn_type(0)
    params.verbosity = -1
    params.warmup = False
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise ExportError(
            f"llama.cpp does not load {path} ({error}); `llama-cli -m {path}` shows the reason"
        ) from error
    yield server


def llamacpp_scores(
    path: Path, ids: Sequence[int], on_token: Callable[[], None] = lambda: None
) -> TokenScores:
    """Scores of `ids[1:]`, each given all tokens before it."""
    log_probs, best = [], []
    vocab_size = read_gguf(path).tensors["token_embd.weight"].shape[0]
    with llamacpp_server(path, context_tokens=len(ids) + 8) as server:
        for end in range(1, len(ids)):
            entry = _forced(server, ids[:end], ids[end], num_best=1)
            if entry is None:
                entry = _looked_up(server, ids[:end], ids[end], vocab_size)
            log_probs.append(entry["logprob"])
            best.append(entry["top_logprobs"][0]["id"])
            on_token()
    return TokenScores(np.array(log_probs), np.array(best))


def _looked_up(server: Any, prompt: Sequence[int], wanted: int, vocab_size: int) -> dict[str, Any]:
    """The entry of a token that the server does not report when generated: half a character, or an end.

    Another token is generated and `wanted` found among the log-probs of the whole vocabulary.
    """
    for other in range(vocab_size):
        entry = _forced(server, prompt, other, num_best=vocab_size)
        if entry is not None:
            found: dict[str, Any] = next(top for top in entry["top_logprobs"] if top["id"] == wanted)
            return found | {"top_logprobs": entry["top_logprobs"]}
    raise ExportError("llama.cpp reports no log-prob for any token of the vocabulary")


def _forced(server: Any, prompt: Sequence[int], following: int, num_best: int) -> dict[str, Any] | None:
    answer = server.handle_completions(
        {
            "prompt": list(prompt),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": num_best,
            "cache_prompt": True,
            "logit_bias": [[following, FORCING_BIAS]],
        }
    )
    if "choices" not in answer:
        raise ExportError(f"llama.cpp answers {answer} instead of a completion")
    log_probs = answer["choices"][0]["logprobs"]
    if log_probs is None or not log_probs["content"]:
        return None
    entry: dict[str, Any] = log_probs["content"][0]
    assert entry["id"] == following, (entry, following)
    return entry
