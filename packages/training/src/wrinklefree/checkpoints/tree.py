"""Nested Python values as JSON plus named tensors, without pickle.

JSON has no tuples, tensors or non-string keys; these become single-entry objects:
{"__tensor__": name}, {"__tuple__": [...]}, {"__items__": [[key, value], ...]}. Floats survive
exactly (Python writes the shortest digits that read back as the same float); those that JSON lacks are
{"__float__": "nan"}, "inf" or "-inf".
Anything else is refused with its place in the tree.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

_TENSOR, _TUPLE, _ITEMS, _FLOAT = "__tensor__", "__tuple__", "__items__", "__float__"


def split_tensors(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """JSON values and the tensors taken out of them: copies in host memory, and sharded ones as they are.

    Raises: TypeError with the path.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(tree, "", tensors), tensors


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        is_sharded = isinstance(value, DTensor)
        tensors[path] = value.detach() if is_sharded else value.detach().cpu().contiguous().clone()
        return {_TENSOR: path}
    if isinstance(value, list):
        return [_encode(v, f"{path}.{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, tuple):
        return {_TUPLE: [_encode(v, f"{path}.{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, dict):
        encoded = [(k, _encode(v, f"{path}.{k}".lstrip("."), tensors)) for k, v in value.items()]
        if all(isinstance(k, str) and not k.startswith("__") for k in value):
            return dict(encoded)
        return {_ITEMS: [[_encode(k, f"{path} key", tensors), v] for k, v in encoded]}
    raise TypeError(f"{path}: a {type(value).__name__} cannot be saved without pickle")


class Tensors(Protocol):
    """By name."""

    def __getitem__(self, name: str, /) -> Tensor: ...


def join_tensors(tree: Any, tensors: Tensors) -> Any:
    """Inverse of `split_tensors`. Raises: KeyError for a tensor that is missing."""
    if isinstance(tree, list):
        return [join_tensors(v, tensors) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if _TENSOR in tree:
        # Copied, so that no tensor of the run lives in the memory of a mapped file.
        return torch.clone(tensors[tree[_TENSOR]])
    if _FLOAT in tree:
        return float(tree[_FLOAT])
    if _TUPLE in tree:
        return tuple(join_tensors(v, tensors) for v in tree[_TUPLE])
    if _ITEMS in tree:
        return {join_tensors(k, tensors): join_tensors(v, tensors) for k, v in tree[_ITEMS]}
    return {k: join_tensors(v, tensors) for k, v in tree.items()}
