"""BitDistill's loss (arXiv 2510.13998, equation 13): the task's, the logits' and the attention's.

loss = cross-entropy + lambda logits_distill + gamma attention_distill

The first two come from the same logits, as many tokens at a time as the smaller of both `chunk_tokens` says.
lambda is `logits.weight`, gamma `attention.weight`. The paper's gamma of 1e5 drowns the task: at the paper's
own normalization its gradients are thousands of times the task's. The default is what makes them alike in
the open replication (Qwen2.5-0.5B, MNLI), and `balance` measures it instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wrinklefree.capture import Capture, Shape
from wrinklefree.config.ranges import number
from wrinklefree.objectives.base import PLAIN, Objective, ObjectiveConfig, ObjectiveResult, Pass, Wish
from wrinklefree.objectives.continue_pretrain import ContinuePretrain, ContinuePretrainConfig
from wrinklefree_distillation.balance import GradientNorms
from wrinklefree_distillation.objectives.attention_distill import AttentionDistill, AttentionDistillConfig
from wrinklefree_distillation.objectives.logits_distill import LogitsDistill, LogitsDistillConfig
from wrinklefree_distillation.options import Balance
from wrinklefree_distillation.tokens import Tokens, predicting_positions

if TYPE_CHECKING:
    from torch import Tensor

TASK, LOGITS, ATTENTION = "task", "logits", "attention"
_BALANCED = {
    Balance.none: (),
    Balance.attention: (ATTENTION,),
    Balance.logits: (LOGITS,),
    Balance.both: (LOGITS, ATTENTION),
}


@dataclass
class BitDistillConfig(ObjectiveConfig):
    """Cross-entropy, logits and attention relations. A term of weight 0 is left out."""

    task: ContinuePretrainConfig = field(default_factory=ContinuePretrainConfig)
    logits: LogitsDistillConfig = field(
        default_factory=lambda: LogitsDistillConfig(weight=10.0, temperature=5.0)
    )
    """Its weight is lambda."""
    attention: AttentionDistillConfig = field(default_factory=lambda: AttentionDistillConfig(weight=60.0))
    """Its weight is gamma."""
    balance: Balance = Balance.none
    """none: constant weights; attention: gamma from measured gradients; logits: lambda; both."""
    logits_ratio: float = number(1.0, above=0)
    """balance: of the weighted gradient's norm to the task's."""
    attention_ratio: float = number(1.0, above=0)
    measure_every_steps: int = number(50, least=0)
    """Steps between measurements of each term's gradient norm, from the first step on; 0: none."""
    decay: float = number(0.9, least=0, below=1)
    """Of the moving means of the norms, of one measurement to the next."""


class BitDistill(Objective):
    config = BitDistillConfig

    def __init__(self, config: BitDistillConfig) -> None:
        self.options = config
        self.task, self.logits = ContinuePretrain(config.task), LogitsDistill(config.logits)
        self.chunk_tokens = min(config.task.chunk_tokens, config.logits.chunk_tokens)
        terms: dict[str, tuple[Objective, float]] = {
            TASK: (self.task, config.task.weight),
            LOGITS: (self.logits, config.logits.weight),
            ATTENTION: (AttentionDistill(config.attention), config.attention.weight),
        }
        self.terms = {name: term for name, (term, weight) in terms.items() if weight > 0}
        self.constants = {name: weight for name, (_, weight) in terms.items() if weight > 0}
        self.layers = AttentionDistill(config.attention).layers
        self.norms = GradientNorms(config.decay)
        self.is_measuring = False
        wishes = [term.wishes[PLAIN] for term in self.terms.values()]
        student = Capture(block_inputs=self.layers) if config.measure_every_steps else Capture()
        teacher = Capture()
        for wish in wishes:
            student, teacher = student | wish.student, teacher | wish.teacher
        self.wishes = {PLAIN: Wish(student, teacher)}

    def check(self, student: Shape, teacher: Shape) -> None:
        balanced = _BALANCED[self.options.balance]
        if balanced and not self.options.measure_every_steps:
            raise ValueError(
                f"balance={self.options.balance} needs measurements: give measure_every_steps above 0"
            )
        for name in (TASK, *balanced) if balanced else ():
            if name not in self.terms:
                raise ValueError(f"balance={self.options.balance} with {name}.weight=0: give it a weight")
        for term in self.terms.values():
            term.check(student, teacher)

    def check_sharded(self) -> None:
        # FSDP frees a block's weights after the first of several passes back through one graph.
        if self.options.measure_every_steps:
            raise ValueError(
                f"measure_every_steps={self.options.measure_every_steps} goes back through the model more "
                "than once a step, which distributed=fsdp cannot do: give 0 (and balance=none), or choose "
                "distributed=ddp"
            )

    def at_step(self, step: int) -> None:
        every = self.options.measure_every_steps
        self.is_measuring = every > 0 and step % every == 0

    def compute(self, passes: Mapping[str, Pass]) -> ObjectiveResult:
        import torch

        results = self._of_head(passes[PLAIN])
        if ATTENTION in self.terms:
            results[ATTENTION] = self.terms[ATTENTION].compute(passes)
        losses = {name: result.loss for name, result in results.items()}
        student = passes[PLAIN].student
        if self.is_measuring:
            number = self.layers.within(student.num_layers)[0]
            self.norms.measure(losses, student.hidden_states[number])
        weights = self._weights()
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        metrics = self._measured(weights, total)
        for name, result in results.items():
            metrics |= {f"{name}_{key}": value for key, value in result.metrics.items()}
        by_token = [result.token_losses for result in results.values() if result.token_losses is not None]
        return ObjectiveResult(total, metrics, by_token[0] if by_token else None)

    def _of_head(self, shown: Pass) -> dict[str, ObjectiveResult]:
        """Task and logits, as far as they have a weight, from the same logits of the student."""
        from wrinklefree_distillation.losses.chunked_divergence import DivergenceTerm
        from wrinklefree_distillation.losses.head import Term, head_losses
        from wrinklefree_distillation.losses.task import CrossEntropyTerm

        terms: dict[str, Term] = {}
        if TASK in self.terms:
            labelled = predicting_positions(shown.view, Tokens.labelled)
            terms[TASK] = CrossEntropyTerm(shown.view["labels"], labelled)
        if LOGITS in self.terms:
            terms[LOGITS] = DivergenceTerm(*self.logits.compared(shown))
        if not terms:
            return {}
        student = shown.student
        assert student.head_weight is not None
        losses = head_losses(
            student.last_hidden_state, student.head_weight, list(terms.values()), self.chunk_tokens
        )
        makers = {TASK: self.task.result, LOGITS: self.logits.result}
        return {name: makers[name](shown.view, *loss) for name, loss in zip(terms, losses, strict=True)}

    def _weights(self) -> dict[str, float]:
        """The constants, or what balances the gradients; the constant where a term has no gradient."""
        weights = dict(self.constants)
        ratios = {LOGITS: self.options.logits_ratio, ATTENTION: self.options.attention_ratio}
        for name in _BALANCED[self.options.balance]:
            balanced = self.norms.weight(name, TASK, ratios[name] * self.constants[TASK])
            weights[name] = self.constants[name] if balanced is None else balanced
        return weights

    def _measured(self, weights: Mapping[str, float], like: Tensor) -> dict[str, Tensor]:
        """The weights, and the norms where there are any; the norms are those of the unweighted terms."""
        values = {f"{name}_weight_ratio": weight for name, weight in weights.items() if name != TASK}
        values |= {f"{name}_gradient_norm": norm for name, norm in self.norms.means.items()}
        return {name: like.new_tensor(value) for name, value in values.items()}

    def state_dict(self) -> dict[str, Any]:
        return self.norms.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.norms.load_state_dict(state)
