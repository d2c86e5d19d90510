"""Hooks that turn a backward pass into sketches of the weights' gradients, matrix by matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from data_handler.errors import DataError
from data_handler.influence.matrices import weight_inputs
from data_handler.influence.preconditioners import Preconditioner
from data_handler.influence.sketches import CountSketch

_AT_ONCE_NUMBERS = 4 * 1024**2
"""Of gradients that exist at the same time, at least one example's of one matrix."""


class GradientCapture:
    """Adds up the sketches of one batch.

    Args:
        linears: by the names of their weights.
        num_rows: examples of the batch.
        per_example: a gradient for each; False: one of all of them.
        preconditioner: what becomes of each gradient.
    """

    def __init__(
        self,
        sketch: CountSketch,
        linears: Mapping[str, nn.Module],
        num_rows: int,
        per_example: bool,
        preconditioner: Preconditioner | None,
        device: torch.device,
    ) -> None:
        self._sketch, self._linears, self._preconditioner = sketch, linears, preconditioner
        self._num_rows, self._num_gradients = num_rows, num_rows if per_example else 1
        self._sums = sketch.zeros(self._num_gradients, device)
        self._followed: set[str] = set()
        self._reached: set[str] = set()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """While a loss is computed and differentiated."""
        handles = [
            module.register_forward_hook(partial(self._follow, name), with_kwargs=True)
            for name, module in self._linears.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def sketches(self) -> Tensor:
        """float32 [gradients, size].

        Raises: DataError naming a matrix that the loss does not depend on.
        """
        if missing := [name for name in self._linears if name not in self._reached]:
            raise DataError(
                f"no gradient reached {missing[0]} ({len(missing)} of {len(self._linears)} matrices): the "
                "loss does not depend on it, or its linear is not called as a module; choose other matrices"
            )
        return self._sketch.folded(self._sums)

    def _follow(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        """After a linear's forward: keeps its input until the gradient of its output is there."""
        if not torch.is_grad_enabled():
            return output  # a pass of the loss's own, that nothing is learned from
        if name in self._followed:
            raise DataError(
                f"the linear of {name} is called several times in one pass, which is not done here: choose "
                "other matrices"
            )
        self._followed.add(name)
        if not output.requires_grad:
            output = output.detach().requires_grad_()  # of the first ones: nothing before needs a gradient
        inputs: Tensor = next(iter((*args, *kwargs.values())))
        output.register_hook(partial(self._take, name, module, inputs.detach()))
        return output.clone() if output.is_leaf else output  # what is a leaf cannot be changed in place

    def _take(self, name: str, module: nn.Module, inputs: Tensor, grad: Tensor) -> None:
        self._reached.add(name)
        with torch.no_grad(), torch.autocast(grad.device.type, enabled=False):
            self._add(name, module, inputs, grad)

    def _add(self, name: str, module: nn.Module, inputs: Tensor, grad: Tensor) -> None:
        x = self._rows(name, weight_inputs(module, inputs))
        g = self._rows(name, grad)
        rows, columns = g.shape[2], x.shape[2]
        hashes = self._sketch.hashes(name, rows, columns, g.device)
        if self._preconditioner is None:  # signs on the factors: a token has fewer numbers than a gradient
            g, x = g * hashes.row_signs, x * hashes.column_signs
        places = hashes.places()
        at_once = max(1, _AT_ONCE_NUMBERS // (rows * columns))
        for start in range(0, self._num_gradients, at_once):
            part = slice(start, start + at_once)
            gradients = g[part].mT @ x[part]
            if self._preconditioner is not None:
                gradients = hashes.signed(self._preconditioner(name, gradients))
            self._sketch.add(self._sums[part], places, gradients)

    def _rows(self, name: str, values: Tensor) -> Tensor:
        """[n, tokens, features] or [n * tokens, features] -> float32 [gradients, tokens, features].

        Raises: DataError where the tokens are not the batch's (experts get those of many examples).
        """
        numbers, features = values.numel(), values.shape[-1]
        is_by_example = values.shape[0] == self._num_rows or values.dim() == 2
        if not is_by_example or numbers % (self._num_rows * features):
            raise DataError(
                f"the linear of {name} gets {list(values.shape)} of a batch of {self._num_rows} examples, so "
                "which token is whose cannot be told; choose other matrices"
            )
        return values.float().reshape(self._num_gradients, -1, features)
