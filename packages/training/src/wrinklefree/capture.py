"""What objectives want to see of a forward pass, and what comes out of one. Imports no PyTorch.

Wishes are united before a pass is made (`|`), so it captures what somebody asked for and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from wrinklefree.predictions import Predictions

View: TypeAlias = "dict[str, Tensor]"
"""What a model is shown in one pass: `input_ids`, `position_ids` [batch, tokens], and `labels`.

Where tokens see others than those before them in their document, `visible`, a bool mask [batch or 1, 1,
queries, keys], or PyTorch's `BlockMask` of it for `flex_attention` on a GPU (bitnet_arch.block_masks).

Of text from the data also `source_ids` [batch, tokens], numbers in the order of data.sources, -1 for filling.

Where supervised records are trained on, also `label_weight` [], which a mean over the labels of a batch is
multiplied by to make the mean over those of a whole step (datamodule.py)."""


@dataclass(frozen=True)
class Layers:
    """A choice of layers; negative numbers count from the end, shares (0 to 1) are of the way there."""

    numbers: frozenset[int] = frozenset()
    every: bool = False
    shares: frozenset[float] = frozenset()

    @classmethod
    def of(cls, *numbers: int) -> Layers:
        return cls(frozenset(numbers))

    @classmethod
    def at(cls, share: float) -> Layers:
        """The layer nearest to a share of the way from the first (0) to the last (1)."""
        return cls(shares=frozenset({share}))

    def __bool__(self) -> bool:
        return self.every or bool(self.numbers or self.shares)

    def __or__(self, other: Layers) -> Layers:
        return Layers(self.numbers | other.numbers, self.every or other.every, self.shares | other.shares)

    def __le__(self, other: Layers) -> bool:
        """Whether `other` has all of these."""
        has_all = self.numbers <= other.numbers and self.shares <= other.shares
        return other.every or (not self.every and has_all)

    def within(self, count: int) -> list[int]:
        """The numbers from 0 to count - 1, ascending. Raises: ValueError for one that is not there."""
        if missing := [number for number in self.numbers if not -count <= number < count]:
            raise ValueError(f"layer {missing[0]} was asked for; there are {count} (0 to {count - 1})")
        if self.every:
            return list(range(count))
        nearest = {round(share * (count - 1)) for share in self.shares}
        return sorted({number % count for number in self.numbers} | nearest)


EVERY_LAYER = Layers(every=True)


@dataclass(frozen=True)
class Capture:
    """hidden_states: 0 is the embeddings, i the output of block i, the last one after the final norm.
    block_inputs: blocks from 0; the input of block i is hidden state i. qkv: blocks from 0.
    logits: of all positions, which cost memory: tokens x vocabulary x 4 bytes.
    predictions: of the next token, in the form that the model has them (predictions.py); a form that no
    tensor of all logits is needed for.
    """

    hidden_states: Layers = field(default_factory=Layers)
    qkv: Layers = field(default_factory=Layers)
    logits: bool = False
    predictions: bool = False
    block_inputs: Layers = field(default_factory=Layers)
    detached_blocks: bool = False
    """Gradients end at each block's input, in the whole pass: a view of one's own is the place for it."""

    def __bool__(self) -> bool:
        wanted = (self.hidden_states, self.block_inputs, self.qkv, self.logits, self.predictions)
        return any(map(bool, wanted))

    def __or__(self, other: Capture) -> Capture:
        return Capture(
            self.hidden_states | other.hidden_states,
            self.qkv | other.qkv,
            self.logits or other.logits,
            self.predictions or other.predictions,
            self.block_inputs | other.block_inputs,
            self.detached_blocks or other.detached_blocks,
        )

    def hidden_numbers(self, num_layers: int) -> list[int]:
        """Of the hidden states asked for, ascending. Raises: ValueError for one that is not there."""
        inputs = self.block_inputs.within(num_layers)
        return sorted({*self.hidden_states.within(num_layers + 1), *inputs})

    def beyond(self, provided: Capture) -> list[str]:
        """Names of what is asked for here and not provided there."""
        lacking = {
            "hidden states": not (self.hidden_states | self.block_inputs) <= provided.hidden_states,
            "queries, keys and values": not self.qkv <= provided.qkv,
            "logits": self.logits and not provided.logits,
            "predictions": self.predictions and not provided.predictions,
        }
        return [name for name, lacks in lacking.items() if lacks]

    def check(self, num_layers: int) -> None:
        """Raises: ValueError for a layer that a model of this depth does not have."""
        self.hidden_numbers(num_layers)
        self.qkv.within(num_layers)


def united(captures: Iterable[Capture]) -> Capture:
    """Everything that any of them asks for."""
    total = Capture()
    for capture in captures:
        total |= capture
    return total


@dataclass(frozen=True)
class Shape:
    """Of a model; what objectives compare has to agree in it.

    query_size, key_size: outputs of the projections, of all heads together.
    vocab_size: None for a teacher elsewhere that does not say it.
    sparse_temperature: of a teacher's predictions that are some ids with weights; None: they are whole.
    knows_any_text: false for a teacher whose predictions were written before.
    """

    num_layers: int
    hidden_size: int
    vocab_size: int | None
    query_size: int
    key_size: int
    sparse_temperature: float | None = None
    knows_any_text: bool = True


LAST_HIDDEN_STATE = Capture(hidden_states=Layers.of(-1))


@dataclass(frozen=True)
class QKV:
    """Outputs of the three projections of a block [batch, tokens, heads, head_dim], before any
    normalization or rotation; key and value have the key-value heads."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class ForwardResult:
    """What one model gave on one view: what was asked for.

    hidden_states: number (see Capture) -> [batch, tokens, hidden].
    head_weight: the vocabulary projection [vocabulary, hidden]; None where a teacher does not give it.
    logits: [batch, tokens, vocabulary].
    predictions: of the token after each, in the form that the model has them.
    """

    num_layers: int
    hidden_states: Mapping[int, Tensor] = field(default_factory=dict)
    head_weight: Tensor | None = None
    qkv: Mapping[int, QKV] = field(default_factory=dict)
    logits: Tensor | None = None
    predictions: Predictions | None = None

    @property
    def last_hidden_state(self) -> Tensor:
        return self.hidden_states[self.num_layers]
