"""Gradients of examples on chosen matrices of a model, as sketches, by one backward pass for a whole batch.

A forward hook on each chosen linear keeps its input x [n, tokens, in]; when the gradient g [n, tokens, out]
of its output arrives, the gradients of the n examples' weights are the products g_i^T x_i, which become
sketches at once and are dropped (capture.py). The parameters' own gradients are not computed: nothing is
written to `.grad`, and the pass ends at the first chosen linear.

Cost beside a training step of the same tokens: the same three products of each chosen matrix, one addition
for each weight and example, and no optimizer. Memory: the inputs of the chosen linears until the backward
pass reaches them, as PyTorch keeps them for training, and a few million numbers of gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from data_handler.errors import DataError
from data_handler.influence.capture import GradientCapture
from data_handler.influence.losses import BatchLosses, LossSums, next_token_losses
from data_handler.influence.matrices import choose
from data_handler.influence.preconditioners import Preconditioner
from data_handler.influence.sketches import CountSketch

DEFAULT_SIZE = 8192


class GradientSketcher:
    """Sketches of gradients of a model's losses.

    Model, gradients, random state and train or eval mode are left as they were; losses are computed in eval
    mode (without dropout).

    Args:
        matrices: names of weights or patterns (`*.mlp.down_proj.weight`); None: the linears of the blocks.
        size: numbers of a sketch.
        seed: of the sketch; only sketches of one seed, size and choice of matrices can be compared.
        losses: what is differentiated; the losses of examples must not depend on each other.

    Raises:
        DataRequestError: a pattern that fits no matrix, a shared or sharded weight, a bad size or seed.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: Sequence[str] | None = None,
        size: int = DEFAULT_SIZE,
        seed: int = 0,
        *,
        losses: BatchLosses = next_token_losses,
    ) -> None:
        self._sketch = CountSketch(size, seed)
        self.size, self.seed = size, seed
        self._model, self._losses = model, losses
        self._linears = choose(model, matrices)

    @property
    def matrices(self) -> list[str]:
        """Names of the chosen weights."""
        return list(self._linears)

    @property
    def num_weights(self) -> int:
        """Numbers of a gradient before it is a sketch."""
        return sum(self._model.get_parameter(name).numel() for name in self._linears)

    def per_example(self, batch: Mapping[str, Any], preconditioner: Preconditioner | None = None) -> Tensor:
        """float32 [n, size] on the model's device: the gradient of each example's mean loss over its labels.

        An example without labels has zeros.

        Args:
            batch: what a loader gives: input_ids, labels, position_ids, int64 [n, tokens].
            preconditioner: what becomes of each gradient before it is a sketch.

        Raises:
            DataError: a loss or gradient that is not finite, a matrix that the loss does not depend on, or
                one whose inputs are not the batch's tokens in order.
        """
        return self._sketches(batch, preconditioner, LossSums.of_examples, per_example=True)

    def mean(self, batch: Mapping[str, Any], preconditioner: Preconditioner | None = None) -> Tensor:
        """float32 [size]: the gradient of the mean loss over all labels of the batch, as in a training step.

        Raises: DataError as `per_example`, and for a batch without labels.
        """
        return self._sketches(batch, preconditioner, LossSums.of_batch, per_example=False)[0]

    def _sketches(
        self,
        batch: Mapping[str, Any],
        preconditioner: Preconditioner | None,
        loss: Callable[[LossSums], Tensor],
        per_example: bool,
    ) -> Tensor:
        device = next(self._model.parameters()).device
        num_rows = len(batch["input_ids"])
        if not num_rows:
            raise DataError("the batch has no example")
        with _untouched(self._model, device):
            capture = GradientCapture(
                self._sketch, self._linears, num_rows, per_example, preconditioner, device
            )
            with capture.hooked():
                # copies: tensors made in inference mode cannot be part of a backward pass
                tensors = {n: v.clone().to(device) for n, v in batch.items() if isinstance(v, Tensor)}
                losses = self._losses(self._model, tensors)
                _check_losses(losses)
                loss(losses).sum().backward()
            return _checked(capture.sketches())


def _check_losses(losses: LossSums) -> None:
    if not torch.isfinite(losses.sums).all():
        number = int((~torch.isfinite(losses.sums)).nonzero()[0, 0])
        raise DataError(
            f"the loss of example {number + 1} of {len(losses.sums)} of the batch is "
            f"{losses.sums[number].item()}: the model's weights or the text are damaged"
        )


def _checked(sketches: Tensor) -> Tensor:
    if not torch.isfinite(sketches).all():
        raise DataError("a gradient is not finite, though the losses are: are the model's weights damaged?")
    return sketches


@contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Without gradients of parameters and without dropout; afterwards all is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        try:
            for module, _ in modes:
                module.training = False
            for parameter in trained:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            for module, was_training in modes:
                module.training = was_training
