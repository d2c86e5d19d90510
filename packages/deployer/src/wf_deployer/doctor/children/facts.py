"""What PyTorch and the C++ kernels say of themselves: {"torch": {...} or null, "kernels": {...}}.

A module that is not installed is null, one that cannot be loaded {"error": "..."}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def main() -> None:
    answers = {"torch": _tell("torch", _torch), "kernels": _tell("ternary_kernels", _kernels)}
    sys.stdout.write(json.dumps(answers) + "\n")


def _tell(name: str, of: Callable[[Any], dict[str, Any]]) -> dict[str, Any] | None:
    if find_spec(name) is None:
        return None
    try:
        return of(import_module(name))
    except Exception as error:  # noqa: BLE001  # the answer is the error itself
        return {"error": f"{type(error).__name__}: {error}"}


def _torch(torch: Any) -> dict[str, Any]:
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cxx11_abi": torch.compiled_with_cxx11_abi(),
        "sees_gpu": torch.cuda.is_available(),
    }


def _kernels(kernels: Any) -> dict[str, Any]:
    formats = import_module("ternary_kernels.packed.formats")
    return dict(kernels.info()) | {"formats": [str(answer) for answer in formats.remembered()]}


if __name__ == "__main__":
    main()
