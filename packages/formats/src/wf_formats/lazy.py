"""Names of a package that are imported on first use (PEP 562), so that importing it stays cheap.

    __getattr__ = lazy_names(__name__, {"make_loader": "loader", "pack": "packing"})

in the package's `__init__.py`; type checkers read the same names below `if TYPE_CHECKING`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its `__name__`.
        homes: name -> submodule that defines it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get
