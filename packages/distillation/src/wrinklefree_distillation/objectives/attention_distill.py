"""How tokens relate in one late block's queries, keys and values: the student's towards the teacher's.

loss = sum_A a_A KL(R_teacher(A), R_student(A)) over A in (Q, K, V); losses/relations.py has R.

The projections are taken before rotary positions, on both sides: a relation of a whole width, split anew into
heads, mixes the pairs that rotate with one another, so that after rotation the same content would relate
differently at other distances; equal projections give equal attention either way. It is also where the hooks
of a pass take them for every family, fused projections and QK-norm included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

from wrinklefree.capture import Capture, Layers, Shape
from wrinklefree.config.ranges import number
from wrinklefree.objectives.base import PLAIN, Objective, ObjectiveConfig, ObjectiveResult, Pass, Wish
from wrinklefree_distillation.tokens import real_tokens, visible_tokens

LATE_LAYER_SHARE = 0.8
"""The authors of BitDistill take block 22 of 28."""


@dataclass
class AttentionDistillConfig(ObjectiveConfig):
    """Relations of queries, keys and values in one block."""

    layer: int | None = None
    """Block, from 0, or negative from the end; null: the one at layer_share."""
    layer_share: float = number(LATE_LAYER_SHARE, least=0, most=1)
    """Of the way from the first block (0) to the last (1)."""
    num_relation_heads: int = number(8, least=1)
    """Divides the widths of queries and keys of both models."""
    query_weight: float = number(1.0, least=0)
    key_weight: float = number(1.0, least=0)
    value_weight: float = number(1.0, least=0)


class AttentionDistill(Objective):
    config = AttentionDistillConfig

    def __init__(self, config: AttentionDistillConfig) -> None:
        self.num_heads = config.num_relation_heads
        weights = {"query": config.query_weight, "key": config.key_weight, "value": config.value_weight}
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.layers = Layers.at(config.layer_share) if config.layer is None else Layers.of(config.layer)
        wish = Capture(qkv=self.layers)
        self.wishes = {PLAIN: Wish(student=wish, teacher=wish)}

    def check(self, student: Shape, teacher: Shape) -> None:
        if not self.weights:
            raise ValueError("query_weight, key_weight and value_weight are all 0: give one above 0")
        sizes = (student.query_size, student.key_size, teacher.query_size, teacher.key_size)
        if any(size % self.num_heads for size in sizes):
            widest = gcd(*sizes)
            possible = [str(n) for n in range(1, widest + 1) if widest % n == 0]
            raise ValueError(
                f"num_relation_heads={self.num_heads} does not divide the widths of queries and keys, "
                f"{sizes[0]} and {sizes[1]} of the student, {sizes[2]} and {sizes[3]} of the teacher; "
                f"possible: {', '.join(possible)}"
            )

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        import torch

        from wrinklefree_distillation.losses.relations import relation_loss

        shown = passes[PLAIN]
        own, other = (r.qkv[self.layers.within(r.num_layers)[0]] for r in (shown.student, shown.taught))
        visible, counted = visible_tokens(shown.view), real_tokens(shown.view)
        losses = {
            name: relation_loss(getattr(own, name), getattr(other, name), visible, counted, self.num_heads)
            for name in self.weights
        }
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        return ObjectiveResult(total, {f"{name}_nats": loss.detach() for name, loss in losses.items()})
