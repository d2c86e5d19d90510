"""What a block-diffusion model makes of text: a bound of its perplexity, never a perplexity.

Documents, windows, the ids that are scored and the bytes that they stand for are those of perplexity.py;
blocks are counted from a window's first id. Of the N scored ids of a file, with B_b the bound of -log p of
block b (bitnet_arch/block_scoring.py has its definition):

    bound = (1/N) sum_b B_b,   perplexity_bound = exp(bound),   bits_per_byte_bound as bits per byte
    mask_stderr: of the bound over other draws of masks, sqrt(sum_b var B_b) / N (not less than it is)
    bound_stderr: over blocks as the text's draws, that of masks among it: of the ratio of sums
                  sum B_b / sum N_b, sqrt(sum_b (B_b - bound N_b)^2) / N

Blocks of one token have no masks to draw: then the bound is the perplexity of the autoregressive pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.perplexity import scored_documents, stride_of

if TYPE_CHECKING:
    from wrinklefree_eval.diffusion_model import DiffusionModel

NAME = "bound on perplexity (diffusion)"


@dataclass(frozen=True)
class Bound:
    """Result over one text file; the fields are defined in the module's docstring.

    mask_stderr: None where one copy was drawn.
    """

    source: str
    bound: float
    perplexity_bound: float
    bits_per_byte_bound: float
    bound_stderr: float
    mask_stderr: float | None
    samples: int
    seed: int
    block_size: int
    token_shift: bool
    num_tokens: int
    num_bytes: int
    num_documents: int
    num_passes: int
    context_tokens: int
    stride_tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, the speed, and the name that the figure has."""
        return {"name": NAME} | asdict(self) | {"tokens_per_second": self.num_tokens / self.seconds}


def measure_bound(
    model: DiffusionModel,
    documents: Iterable[str],
    source: str,
    stride_tokens: int | None = None,
    max_tokens: int | None = None,
) -> Bound:
    """As `perplexity.measure`, of a block-diffusion model.

    Raises:
        EvalRequestError: The stride is out of range.
        EvalError: There is nothing to score, or a text holds the mask token.
    """
    stride = stride_of(model, stride_tokens)
    start_s = time.perf_counter()
    nats, variances, counts = [], [], []
    num_bytes = num_documents = num_passes = 0
    for document in scored_documents(model, documents, stride, max_tokens):
        for ids, start in document.windows:
            found = model.bound(ids, start)
            nats.append(found.nats)
            variances.append(found.variances)
            counts.append(found.num_tokens)
            num_passes += found.num_passes
        num_bytes += document.num_bytes
        num_documents += 1
    if not nats:
        raise EvalError(f"{source} has no document of two or more tokens: nothing to score")
    total, tokens, variance = (np.concatenate(parts) for parts in (nats, counts, variances))
    num_tokens = int(tokens.sum())
    bound = float(total.sum()) / num_tokens
    spread = math.sqrt(float(variance.sum())) / num_tokens
    return Bound(
        source=source,
        bound=bound,
        perplexity_bound=math.exp(bound),
        bits_per_byte_bound=float(total.sum()) / math.log(2) / num_bytes,
        bound_stderr=math.sqrt(float(((total - bound * tokens) ** 2).sum())) / num_tokens,
        mask_stderr=None if math.isnan(spread) else spread,
        samples=model.samples,
        seed=model.seed,
        block_size=model.diffusion.block_size,
        token_shift=model.diffusion.token_shift,
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        num_documents=num_documents,
        num_passes=num_passes,
        context_tokens=model.context_tokens,
        stride_tokens=stride,
        seconds=time.perf_counter() - start_s,
    )
