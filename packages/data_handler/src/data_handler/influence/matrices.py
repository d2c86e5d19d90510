"""Which weight matrices gradients are taken of.

The gradient of a linear's weight is g^T x: g the gradient of its output, x what the product is with. Of an
`nn.Linear` that is its input; a module whose product is with something else (a BitLinear's rounded input)
tells by `weight_inputs`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from data_handler.errors import DataRequestError


@runtime_checkable
class WeightInputs(Protocol):
    """A module with a `weight` [out, in] whose gradient is g^T of what `weight_inputs` gives."""

    weight: Any

    def weight_inputs(self, x: Tensor) -> Tensor:
        """The module's input [..., in] -> the other factor of its weight's gradient [..., in]."""
        ...


def weight_inputs(module: nn.Module, x: Tensor) -> Tensor:
    """What the gradient of the module's weight is a product with, of its input [..., in]."""
    return module.weight_inputs(x) if isinstance(module, WeightInputs) else x


def choose(model: nn.Module, patterns: Sequence[str] | None) -> dict[str, nn.Module]:
    """The linears of the matrices, by the names of their weights, in model order.

    Args:
        patterns: names of weights, or glob patterns of them; None: every linear of the blocks.

    Raises:
        DataRequestError: a pattern that matches no matrix, or one whose gradient cannot be taken; says which
            there are.
    """
    if isinstance(model, DistributedDataParallel):
        raise DataRequestError(
            "the model is in DistributedDataParallel, which counts passes: give its module"
        )
    linears = _linears(model)
    if patterns is None:
        found = {name: module for name, module in linears.items() if _in_block(name)}
        if not found:
            raise DataRequestError(
                f"the model has no linear inside of numbered blocks: name the matrices, of {_kinds(linears)}"
            )
    else:
        if isinstance(patterns, str) or not patterns:
            raise DataRequestError(f"matrices is {patterns!r}; give a list of names or patterns, or None")
        parameters = dict(model.named_parameters())
        for pattern in patterns:
            _check(pattern, linears, parameters)
        found = {n: m for n, m in linears.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
    for name, module in found.items():
        _check_weight(name, module, model)
    return found


def _linears(model: nn.Module) -> dict[str, nn.Module]:
    """Modules whose weight's gradient is g^T x, by the weight's name."""
    named = model.named_modules()
    return {f"{name}.weight" if name else "weight": module for name, module in named if _is_linear(module)}


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, WeightInputs) or (
        isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    )


def _in_block(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _check(pattern: str, linears: dict[str, nn.Module], parameters: dict[str, Any]) -> None:
    if any(fnmatchcase(name, pattern) for name in linears):
        return
    if others := [name for name in parameters if fnmatchcase(name, pattern)]:
        raise DataRequestError(
            f"{others[0]} is no matrix of a linear that gradients can be taken of: it is in none, or its "
            f"module has a forward of its own and no weight_inputs; there are {_kinds(linears)}"
        )
    raise DataRequestError(f"no matrix is named {pattern!r}; there are {_kinds(linears)}")


def _check_weight(name: str, module: Any, model: nn.Module) -> None:
    if isinstance(module.weight, DTensor):
        raise DataRequestError(f"{name} is sharded, and gradients are of whole matrices: gather the model")
    shared = [n for n, p in model.named_parameters(remove_duplicate=False) if p is module.weight]
    if len(shared) > 1:
        raise DataRequestError(
            f"{name} is shared by {' and '.join(shared)}, so its gradient mixes both uses; leave it out"
        )


def _kinds(names: Sequence[str] | dict[str, Any]) -> str:
    """The names with their numbers as *, each once."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)) or "none"
