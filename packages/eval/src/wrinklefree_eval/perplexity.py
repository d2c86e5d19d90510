"""Token-level perplexity and bits per byte of text, defined for every model kind in the same way.

1. Each document is tokenized alone, without special tokens. Let t_0 .. t_{n-1} be its ids, P the ids
   that the model's own tokenizer puts before every text (Llama 3: BOS; SmolLM2, Qwen: none).
2. Windows of C ids (`context_tokens`) start at 0, S, 2S, ... (`stride_tokens`); a window is P and then
   up to C - |P| ids of the document.
3. In each window the ids that no earlier window scored are scored, each given all ids of the window
   before it. So every id is scored once, but for t_0 if P is empty: nothing precedes it.
   The default S = C - |P| - 1 overlaps windows by the one id that the next id needs ("non-overlapping");
   a smaller S gives each id at least C - |P| - S ids of context and costs more.
4. Over all N scored ids of a file:
   nll = -(1/N) sum log p,   perplexity = exp(nll),   stderr = sd(log p) / sqrt(N),
   bits_per_byte = -(sum log2 p) / B, with B the UTF-8 bytes of the documents without those of an
   unscored t_0.
   Perplexities compare models with one tokenizer; bits per byte compare any.

`max_tokens` stops within the document that reaches N = max_tokens; B then counts the text of the
scored ids.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wrinklefree_eval.errors import EvalError, EvalRequestError
from wrinklefree_eval.models import EvalModel


@dataclass(frozen=True)
class Perplexity:
    """Result over one text file; the fields are defined in the module's docstring."""

    source: str
    perplexity: float
    bits_per_byte: float
    nll: float
    nll_stderr: float
    num_tokens: int
    num_bytes: int
    num_documents: int
    context_tokens: int
    stride_tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, and the speed."""
        return asdict(self) | {"tokens_per_second": self.num_tokens / self.seconds}


def windows(
    num_tokens: int, context_tokens: int, stride_tokens: int, num_prefix_tokens: int = 0
) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first) of each window: ids begin..end are its text, first..end are scored."""
    width = context_tokens - num_prefix_tokens
    done = 0 if num_prefix_tokens else 1
    for begin in range(0, num_tokens, stride_tokens):
        end = min(begin + width, num_tokens)
        if done < end:
            yield begin, end, done
            done = end
        if end == num_tokens:
            return


def measure(
    model: EvalModel,
    documents: Iterable[str],
    source: str,
    stride_tokens: int | None = None,
    max_tokens: int | None = None,
) -> Perplexity:
    """Perplexity of a model on documents.

    Args:
        model: Scores windows of `model.context_tokens` ids.
        documents: Texts.
        source: Name of the result, for people.
        stride_tokens: S above; None takes the widest.
        max_tokens: Stop after this many scored ids; None reads all.

    Raises:
        EvalRequestError: The stride is out of range.
        EvalError: There is nothing to score.
    """
    stride = stride_of(model, stride_tokens)
    start_s = time.perf_counter()
    parts: list[np.ndarray] = []
    num_tokens = num_bytes = num_documents = 0
    for document in scored_documents(model, documents, stride, max_tokens):
        scored = [model.score(ids, start).logprobs for ids, start in document.windows]
        parts.extend(scored)
        num_tokens += sum(map(len, scored))
        num_bytes += document.num_bytes
        num_documents += 1
    if not num_tokens:
        raise EvalError(f"{source} has no document of two or more tokens: nothing to score")
    logprobs = np.concatenate(parts)
    nll = -float(logprobs.mean())
    return Perplexity(
        source=source,
        perplexity=math.exp(nll),
        bits_per_byte=-float(logprobs.sum()) / math.log(2) / num_bytes,
        nll=nll,
        nll_stderr=float(logprobs.std()) / math.sqrt(num_tokens),
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        num_documents=num_documents,
        context_tokens=model.context_tokens,
        stride_tokens=stride,
        seconds=time.perf_counter() - start_s,
    )


def stride_of(model: EvalModel, stride_tokens: int | None) -> int:
    """S above. Raises: EvalRequestError: out of range."""
    widest = model.context_tokens - len(model.prefix_ids) - 1
    stride = widest if stride_tokens is None else stride_tokens
    if not 1 <= stride <= widest:
        raise EvalRequestError(
            f"stride must be in [1, {widest}] for a context of {model.context_tokens} tokens, got {stride}"
        )
    return stride


@dataclass(frozen=True)
class ScoredDocument:
    """windows: ids, and from which of them on they are scored; num_bytes: what the scored ids stand for."""

    windows: list[tuple[list[int], int]]
    num_bytes: int


def scored_documents(
    model: EvalModel, documents: Iterable[str], stride: int, max_tokens: int | None
) -> Iterator[ScoredDocument]:
    """What is scored of each document, until there are `max_tokens`."""
    num_tokens = 0
    for document in documents:
        room = None if max_tokens is None else max_tokens - num_tokens
        if room is not None and room <= 0:
            return
        found = _document(model, document, stride, room)
        num_tokens += sum(len(ids) - start for ids, start in found.windows)
        yield found


def _document(model: EvalModel, document: str, stride: int, room: int | None) -> ScoredDocument:
    ids, prefix = model.tokenize(document), model.prefix_ids
    unscored = 0 if prefix else 1
    is_cut = room is not None and len(ids) > room + unscored
    if is_cut:
        ids = ids[: room + unscored]  # type: ignore[operator]
    found = []
    for begin, end, first in windows(len(ids), model.context_tokens, stride, len(prefix)):
        found.append(([*prefix, *ids[begin:end]], len(prefix) + first - begin))
    text = model.detokenize(ids) if is_cut else document
    skipped = model.detokenize(ids[:unscored]) if unscored else ""
    return ScoredDocument(found, len(text.encode()) - len(skipped.encode()))
