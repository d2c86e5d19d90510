"""Arithmetic of a training step, and how much of it a processor did in a second where that was measured.

    FLOP of a token = 3 x (2 x (weights of the blocks' linears + head) + attention)
    attention = 4 x layers x heads x head size x tokens seen, half of a sequence on average

The backward pass is two products for each of the forward one (Kaplan et al. 2020, arXiv 2001.08361, section
2.1, with the head, without the embedding's lookup). Activation checkpointing adds the blocks' forward pass, a
teacher its whole one. Utilization is this over the peak of dense bfloat16 products (model FLOP utilization,
Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

Measured (docs/performance.md), all of them on SmolLM2-135M: a step of 32 x 1,024 tokens on an H100, one of
4 x 256 on two cores with AVX-512. Larger matrices keep a GPU busier, so larger models should be faster than
said here. No time is taken for what GPUs tell each other, and other GPUs are taken to be used as well as the
H100.
"""

from __future__ import annotations

from dataclasses import dataclass

from wf_formats.schemes import FULL_PRECISION
from wrinklefree.config.training import Precision
from wrinklefree.planning.shapes import ModelShape, count

DENSE = FULL_PRECISION
_TENSOR, _GROUP = "tensor", "group64"

H100_PEAK = 989e12
"""FLOP/s of dense bfloat16 products (NVIDIA's data sheet, SXM)."""
GPU_DENSE = 0.123
"""Of the peak: 133,000 tokens a second of the dense model."""
GPU_SPEEDS = {
    (DENSE, Precision.bf16): 1.0,
    (_GROUP, Precision.bf16): 1.03,
    (_GROUP, Precision.int8): 0.62,
    (_TENSOR, Precision.bf16): 0.70,
    (_TENSOR, Precision.int8): 0.53,
}
"""Tokens a second over those of the dense bfloat16 step."""
CPU_PEAK = 114e9
"""FLOP/s of a core, float32 (114 G multiply-adds a second were measured on two)."""
CPU_DENSE = 0.46
"""Of that: the dense float32 step."""
CPU_SPEEDS = {
    (DENSE, Precision.float32): 1.0,
    (DENSE, Precision.bf16): 2.10,
    (_GROUP, Precision.bf16): 2.57,
    (_GROUP, Precision.int8): 3.27,
    (_TENSOR, Precision.int8): 2.62,
}
"""Tokens a second over those of the dense float32 step."""


@dataclass(frozen=True)
class Work:
    """FLOP of one token. student: forward and backward; teacher: its forward pass."""

    student: float
    teacher: float = 0.0

    @property
    def total(self) -> float:
        return self.student + self.teacher


def work(
    model: ModelShape, sequence_tokens: int, recomputes: bool, teacher: ModelShape | None, row_tokens: int = 1
) -> Work:
    """Of a token of sequences of this length. row_tokens: that the student is shown for each, seeing as many
    others; the head is computed once."""
    blocks, head = row_tokens * _blocks(model, sequence_tokens), _head(model)
    again = blocks if recomputes else 0.0
    taught = 0.0 if teacher is None else _blocks(teacher, sequence_tokens) + _head(teacher)
    return Work(3 * (blocks + head) + again, taught)


def _blocks(model: ModelShape, sequence_tokens: int) -> float:
    """Forward FLOP of a token in all blocks."""
    decoder = model.decoder
    seen = sum(_seen(sequence_tokens, layer.window) for layer in decoder.attention)
    return 2.0 * count(model.matrices) + 4 * decoder.num_heads * decoder.head_dim * seen


def _seen(sequence_tokens: int, window: int | None) -> float:
    """Tokens that a token sees, on average."""
    if window is None or window >= sequence_tokens:
        return sequence_tokens / 2
    return window - window * window / (2 * sequence_tokens)


def _head(model: ModelShape) -> float:
    return 2.0 * model.decoder.vocab_size * model.decoder.hidden_size


def utilization(model: ModelShape, precision: Precision, on_cpu: bool) -> float | None:
    """Measured share of the peak (of a CPU: of its float32 one, so above 1 with int8); None: not measured.

    Groups of 128 are taken for groups of 64.
    """
    scheme = model.scheme if model.scheme in (DENSE, _TENSOR) else _GROUP
    speeds, dense = (CPU_SPEEDS, CPU_DENSE) if on_cpu else (GPU_SPEEDS, GPU_DENSE)
    speed = speeds.get((scheme, precision))
    return None if speed is None else dense * speed


def teacher_utilization(precision: Precision, on_cpu: bool) -> float:
    """Of the teacher, a dense model in bfloat16 beside `bf16` and `int8`, else float32."""
    if not on_cpu:
        return GPU_DENSE
    return (
        CPU_DENSE * CPU_SPEEDS[DENSE, Precision.float32 if precision is Precision.float32 else Precision.bf16]
    )


def tokens_per_s(work: Work, peak: float, share: float, teacher_share: float) -> float:
    """Of one processor with this peak (FLOP/s), of which the student's work takes `share`."""
    return peak / (work.student / share + work.teacher / teacher_share)
