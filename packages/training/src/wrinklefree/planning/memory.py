"""Bytes that one rank needs for a training step, by what they are for.

    total = weights + gradients + moments + average + rounded + teacher + gathered
            + max(activations + loss + working, update)

Gradients stay until the next backward pass begins, so they are there while activations are. The second term
of the maximum is the optimizer's step, when activations are gone. What a forward pass keeps is counted tensor
by tensor as this code keeps it (bitnet_arch.straight_through, ternary_kernels, wrinklefree.cross_entropy);
the general account is that of Korthikanti et al. 2022 (arXiv 2205.05198, section 4), sharding that of ZeRO
(Rajbhandari et al. 2020, arXiv 1910.02054). What of it was compared with measurements: docs/planning.md.

Not counted: context and workspaces of a GPU, fragmentation (`RESERVE_SHARE` of a GPU is left for these), the
norms of families whose norms have no kernel (Gemma), memory of the processes that read data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from wf_formats.kernel_sizes import ATTENTION_QUERIES, ATTENTION_TOKENS
from wf_formats.schemes import GROUP_SIZES
from wrinklefree.config.distributed import DistributedKind
from wrinklefree.config.optimizer import (
    AdamWConfig,
    MomentKind,
    MuonConfig,
    OptimizerConfig,
)
from wrinklefree.config.training import Precision
from wrinklefree.planning.moments import moments
from wrinklefree.planning.shapes import FLOAT, ModelShape, count, sizes

RESERVE_SHARE = 0.08
"""Of a GPU's memory: context, workspaces of cuBLAS and cuDNN, fragmentation. A guess, not a measurement."""


@dataclass(frozen=True)
class Step:
    """One forward and backward pass of a rank. sequence_tokens: of each sequence; recomputes: activation
    checkpointing; chunk_tokens: tokens whose logits exist at once, None: no logits are computed."""

    batch_size: int
    sequence_tokens: int
    precision: Precision
    on_cpu: bool
    recomputes: bool = False
    chunk_tokens: int | None = 512
    compares_states: bool = False
    """With the teacher's, of all layers (stage 1.9)."""

    @property
    def num_tokens(self) -> int:
        return self.batch_size * self.sequence_tokens

    @property
    def width(self) -> int:
        """Bytes of a value that a linear gives: float32, or bfloat16 under autocast."""
        return FLOAT if self.precision is Precision.float32 else 2


@dataclass(frozen=True)
class Sharding:
    kind: DistributedKind
    num_ranks: int = 1

    def of(self, num_bytes: int) -> int:
        """A rank's share of what FSDP shards."""
        return math.ceil(num_bytes / self.num_ranks) if self.kind is DistributedKind.fsdp else num_bytes


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    weights: int
    """float32 master weights."""
    gradients: int
    moments: int
    """Of the optimizer."""
    average: int
    """Of the weights (training.ema_decay)."""
    rounded: int
    """Codes and scales of ternary weights, kept for the backward pass (dense: weights in bfloat16)."""
    teacher: int
    gathered: int
    """FSDP: whole weights and gradients of the blocks at work, and of embeddings and head."""
    activations: int
    loss: int
    """Gradients of the last hidden states and of the head, logits of a chunk; or compared hidden states."""
    working: int
    """The backward pass of one block."""
    update: int
    """Temporaries of the optimizer's step, when activations are gone."""

    @property
    def total(self) -> int:
        passing = self.activations + self.loss + self.working
        lasting = sum(getattr(self, field.name) for field in fields(self)) - passing - self.update
        return lasting + max(passing, self.update)


def memory(
    model: ModelShape,
    step: Step,
    sharding: Sharding,
    optimizer: OptimizerConfig,
    teacher_bytes: int = 0,
    has_average: bool = False,
) -> Memory:
    """What a rank needs.

    Args: teacher_bytes are those of a teacher in the same memory, which is whole on every rank; has_average
        is training.ema_decay's.
    """
    weights = FLOAT * model.num_parameters
    return Memory(
        weights=sharding.of(weights),
        gradients=sharding.of(weights),
        moments=sharding.of(moments(model, optimizer)),
        average=weights if has_average else 0,
        rounded=rounded_weights(model, step),
        teacher=teacher_bytes,
        gathered=_gathered(model, sharding),
        activations=activations(model, step),
        loss=kept_by_loss(model, step) + _loss_chunk(model, step, teacher_bytes > 0),
        working=_working(model, step),
        update=sharding.of(_update(model, optimizer)),
    )


def rounded_weights(model: ModelShape, step: Step) -> int:
    """What of the weights is kept from forward to backward pass: a byte a ternary weight and its scales; of a
    dense model under autocast its weights in bfloat16. With activation checkpointing one block's."""
    if model.is_dense:
        num_bytes = 0 if step.precision is Precision.float32 else 2 * count(model.matrices)
    else:
        group = GROUP_SIZES[model.scheme]
        scales = sum(1 if group is None else size // group for _, size in sizes(model.matrices))
        num_bytes = count(model.matrices) + FLOAT * scales
    return math.ceil(num_bytes / model.decoder.num_layers) if step.recomputes else num_bytes


def activations(model: ModelShape, step: Step) -> int:
    """What a forward pass keeps for the backward pass, but weights and what the loss keeps."""
    decoder, tokens = model.decoder, step.num_tokens
    norm = _norm(tokens, decoder.hidden_size, FLOAT)
    angles = 2 * FLOAT * step.num_tokens * decoder.head_dim
    ids = 8 * tokens  # of the embedding
    block = _block(model, step)
    if step.recomputes:
        inputs = FLOAT * tokens * decoder.hidden_size * decoder.num_layers
        return inputs + block + norm + angles + ids
    return decoder.num_layers * block + norm + angles + ids


def _block(model: ModelShape, step: Step) -> int:
    """Of one decoder block. Its residual stream is float32, so inputs of norms are; a norm keeps its input
    and a factor a token."""
    decoder, tokens, width = model.decoder, step.num_tokens, step.width
    queries, keys = _heads(model)
    norms = 2 * _norm(tokens, decoder.hidden_size, FLOAT)
    if "q_norm" in model.family.extras:
        num_heads = decoder.num_heads + decoder.num_kv_heads
        norms += width * tokens * (queries + keys) + FLOAT * tokens * num_heads
    if model.has_sub_norms:
        norms += FLOAT * tokens + _norm(tokens, decoder.intermediate_size, width)
    gates = 2 * width * tokens * decoder.intermediate_size
    # Fused attention keeps its output, which a float layer or SubLN behind it keeps too: one tensor.
    is_kept = _is_fused(step) or model.is_dense or model.has_sub_norms
    output = width * tokens * queries if is_kept else 0
    return norms + gates + output + _inputs(model, step) + _attention(model, step)


def _heads(model: ModelShape) -> tuple[int, int]:
    """Features of all queries, and of all keys."""
    decoder = model.decoder
    return decoder.num_heads * decoder.head_dim, decoder.num_kv_heads * decoder.head_dim


def _norm(tokens: int, features: int, width: int) -> int:
    return width * tokens * features + FLOAT * tokens


def _inputs(model: ModelShape, step: Step) -> int:
    """Of the linears, but a float one of attention's output. Ternary: codes of a byte and a scale a token,
    which layers with one input share. Dense: the input itself, under autocast a copy in bfloat16 for each."""
    decoder, tokens = model.decoder, step.num_tokens
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    if not model.is_dense:
        return tokens * (2 * (hidden + FLOAT) + _heads(model)[0] + FLOAT + inner + FLOAT)
    copies = 2 if step.precision is Precision.float32 else len(model.family.linears) - 2
    return step.width * tokens * (copies * hidden + inner)


def _is_fused(step: Step) -> bool:
    """Whether PyTorch's attention computes; else our kernel, which keeps score matrices."""
    is_short = step.sequence_tokens <= ATTENTION_TOKENS
    return not (step.on_cpu and step.precision is not Precision.float32 and is_short)


def _attention(model: ModelShape, step: Step) -> int:
    """Of one layer's attention but its output, documents masked. On the CPU in bfloat16 the shares of all
    pairs of a short sequence that may see each other, by chunks of queries; else what PyTorch's attention
    keeps: queries, keys and values of all heads, a logarithm a query and the mask as numbers (Dao 2023, arXiv
    2307.08691)."""
    decoder, tokens, length = model.decoder, step.num_tokens, step.sequence_tokens
    queries, keys = _heads(model)
    if _is_fused(step):
        mask = step.width * step.batch_size * length * length
        return step.width * tokens * 3 * queries + FLOAT * tokens * decoder.num_heads + mask
    pairs = sum(
        min(ATTENTION_QUERIES, length - start) * min(start + ATTENTION_QUERIES, length)
        for start in range(0, length, ATTENTION_QUERIES)
    )
    shares = step.width * step.batch_size * decoder.num_heads * pairs
    return step.width * tokens * (queries + 2 * keys) + shares


def kept_by_loss(model: ModelShape, step: Step) -> int:
    """From its forward to its backward pass: gradients of the last hidden states but each sequence's last,
    and of the head; under autocast the head in bfloat16."""
    decoder = model.decoder
    if step.chunk_tokens is None:
        states = FLOAT * step.num_tokens * decoder.hidden_size * decoder.num_layers
        return states if step.compares_states else 0
    rows = step.batch_size * (step.sequence_tokens - 1)
    head = 0 if step.precision is Precision.float32 else step.width
    return decoder.hidden_size * (FLOAT * rows + (FLOAT + head) * decoder.vocab_size)


def _loss_chunk(model: ModelShape, step: Step, has_teacher: bool) -> int:
    """While the loss is computed: logits of a chunk and their gradients (beside a teacher about six tensors
    of chunk x vocabulary), the head and a part of its gradient in the dtype of the
    products; or the teacher's hidden states."""
    decoder = model.decoder
    if step.chunk_tokens is None:
        states = step.width * step.num_tokens * decoder.hidden_size * decoder.num_layers
        return states if step.compares_states else 0
    rows = min(step.chunk_tokens, step.num_tokens)
    logits = step.width * rows * decoder.vocab_size * (6 if has_teacher else 2)
    head = decoder.vocab_size * decoder.hidden_size
    return logits + head * (step.width if step.precision is Precision.float32 else 2 * step.width)


def _working(model: ModelShape, step: Step) -> int:
    """Gradients of gate, up and their product, a float matrix and its gradient."""
    largest = max(math.prod(shape) for shape in model.matrices.values())
    return 3 * step.width * step.num_tokens * model.decoder.intermediate_size + 2 * FLOAT * largest


def _update(model: ModelShape, optimizer: OptimizerConfig) -> int:
    """PyTorch's AdamW, not fused, works on all tensors at once, with one more float32 a weight."""
    if isinstance(optimizer, AdamWConfig):
        is_plain = optimizer.state is MomentKind.float32 and not optimizer.fused
        return FLOAT * model.num_parameters if is_plain else 0
    if isinstance(optimizer, MuonConfig):
        return FLOAT * count({**model.embeddings, **model.vectors})
    return 0


def _gathered(model: ModelShape, sharding: Sharding) -> int:
    """FSDP2 with each block and the rest as units: the rest stays gathered, two blocks are (one is fetched
    ahead), and gradients of the rest and of one block are whole until they are scattered."""
    if sharding.kind is not DistributedKind.fsdp:
        return 0
    rest = count(model.embeddings) + model.decoder.hidden_size
    return FLOAT * (2 * rest + 3 * model.block_parameters)
