"""AdamW whose moments take 4 bytes a weight (bf16) or 2 (int8) instead of 8, for weights on the CPU.

All weights are updated in one pass by the kernels of `ternary_kernels`, whose `training.adamw` says how
moments are stored and rounded. Tensors of fewer than 4,096 weights (norms, biases) keep float32 moments: they
are a thousandth of a model, and the 8-bit optimizers of Dettmers et al. 2021 (arXiv 2110.02861) leave them
too. Embeddings, which those leave as well, do not.
The chance of rounding is a function of parameter, update and element, so a resumed run repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bitnet_arch.kernels import kernel_for
from wf_formats.errors import NotFiniteError, RequestError
from wrinklefree.config.optimizer import COMPACT_LEAST_WEIGHTS, MomentKind

_DTYPES = {MomentKind.bf16: torch.bfloat16, MomentKind.int8: torch.uint8}
_MOMENTS = ("exp_avg", "exp_avg_sq")


def moment_kernels(kind: MomentKind, weights: Iterable[Tensor]) -> ModuleType:
    """The kernels for moments of `kind`. Raises: RequestError where nothing offers them for the weights."""
    if kernel_for("adamw", torch.float32, *weights) is None:
        raise RequestError(
            f"optimizer.state={kind} has kernels for whole weights on the CPU alone, in the package "
            "ternary-kernels: set optimizer.state=float32, or distributed.accelerator=cpu and install it"
        )
    from ternary_kernels import training

    return training


class CompactAdamW(Optimizer):
    """Decoupled weight decay; learning rate and decay may differ by group and change, the rest may not.

    Args:
        groups: with `params` as (name, parameter) and `weight_decay`.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        learning_rate: float,
        betas: tuple[float, float],
        eps: float,
        kind: MomentKind,
    ) -> None:
        super().__init__(groups, {"lr": learning_rate})
        self._betas, self._eps, self._kind = betas, eps, kind
        self._kernels = moment_kernels(kind, (p for _, p in self._named()))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Raises: NotFiniteError naming the parameter with such a gradient; nothing is changed then."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises: RequestError for moments of another kind. Those of this kind keep their dtypes."""
        super().load_state_dict(state_dict | {"state": {}})
        named = self._named()
        for index, entry in state_dict["state"].items():
            name, parameter = named[index]
            self._check(name, parameter, entry)
            self.state[parameter] = dict(entry)

    def _check(self, name: str, parameter: nn.Parameter, entry: dict[str, Any]) -> None:
        for key, wanted in self._new_state(parameter).items():
            found = entry[key]
            if isinstance(wanted, Tensor) and (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
                raise RequestError(
                    f"{key} of {name} is saved as {found.dtype} {list(found.shape)}, and optimizer.state="
                    f"{self._kind} has {wanted.dtype} {list(wanted.shape)}: set optimizer.state as it was"
                )

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [
            pair
            for group in self.param_groups
            for pair in zip(group["param_names"], group["params"], strict=True)
        ]

    def _new_state(self, parameter: nn.Parameter) -> dict[str, Any]:
        dtype = _DTYPES[self._kind] if parameter.numel() >= COMPACT_LEAST_WEIGHTS else torch.float32
        return {"step": 0} | {key: self._kernels.new_moment(parameter, dtype) for key in _MOMENTS}

    def _update(self) -> None:
        rates = [(g["lr"], g["weight_decay"]) for g in self.param_groups for _ in g["params"]]
        due = [
            (number, name, parameter, *rate)
            for number, ((name, parameter), rate) in enumerate(zip(self._named(), rates, strict=True))
            if parameter.grad is not None
        ]
        if not due:
            return
        numbers, names, parameters, learning_rates, decays = (
            list(column) for column in zip(*due, strict=True)
        )
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = self._new_state(parameter)
        states = [self.state[parameter] for parameter in parameters]
        try:
            self._kernels.adamw(
                parameters,
                [parameter.grad for parameter in parameters],
                *([state[key] for state in states] for key in _MOMENTS),
                numbers,
                [state["step"] + 1 for state in states],
                learning_rates,
                decays,
                *self._betas,
                self._eps,
            )
        except self._kernels.GradientError as error:
            raise NotFiniteError(f"the gradient of {names[error.index]}: {error}") from error
        for state in states:
            state["step"] += 1
