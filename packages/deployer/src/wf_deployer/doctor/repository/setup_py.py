"""setup.py by its syntax tree: what is written out is read, nothing of it runs."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from wf_deployer.doctor.files import FileError, read_text
from wf_deployer.doctor.repository.declared import Declarations, Extension, Kind
from wf_deployer.doctor.repository.pyproject import add_all, add_python

_EXTENSIONS = ("CUDAExtension", "CppExtension", "SyclExtension", "Extension", "CMakeExtension", "cythonize")
_MOST_BYTES = 1 << 20
_MOST_STEPS = 100_000
_LISTS = (("install_requires", Kind.needed), ("setup_requires", Kind.build), ("tests_require", Kind.optional))


def read_setup_py(root: Path, file: Path, into: Declarations) -> None:
    """Adds the arguments of `setup(...)`, extensions, and whether it imports PyTorch."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of strings in others' code
            tree = ast.parse(read_text(root / file, _MOST_BYTES))
    except FileError as error:
        into.problems.append(str(error))
        return
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        into.problems.append(f"{file} is no Python that can be read: {error}")
        return
    into.files.append(file)
    names = _Names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _call(node, file, names, into)
        elif (
            isinstance(node, ast.Import | ast.ImportFrom)
            and _is_torch(node)
            and file not in into.imports_torch
        ):
            into.imports_torch.append(file)


def _call(call: ast.Call, file: Path, names: _Names, into: Declarations) -> None:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    settings = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in _EXTENSIONS:
        sources = _strings(settings.get("sources", call.args[1] if len(call.args) > 1 else None), names)
        into.extensions.append(Extension(file, name, len(sources), sum(s.endswith(".cu") for s in sources)))
    elif name == "setup":
        _setup(call, file, names, into)


def _setup(call: ast.Call, file: Path, names: _Names, into: Declarations) -> None:
    settings: dict[str, ast.expr] = {}
    for keyword in call.keywords:
        common = names.resolved(keyword.value)
        if keyword.arg is not None:
            settings[keyword.arg] = keyword.value
        elif isinstance(common, ast.Dict):  # **common
            for word, value in zip(common.keys, common.values, strict=True):
                if isinstance(word, ast.Constant) and isinstance(word.value, str):
                    settings[word.value] = value
        else:
            into.computed.append(f"{file}: setup(**...) is known only when it runs")
    name = names.literal(settings["name"]) if "name" in settings else None
    if isinstance(name, str):
        into.names.add(canonicalize_name(name))
    for key, kind in _LISTS:
        if key in settings:
            _read(settings[key], key, file, kind, names, into)
    if "extras_require" in settings:
        extras = names.resolved(settings["extras_require"])
        if isinstance(extras, ast.Dict):
            for name, value in zip(extras.keys, extras.values, strict=True):
                part = str(names.literal(name)) if name is not None else "?"
                _read(value, f"extra {part}", file, Kind.optional, names, into, part)
        else:
            into.computed.append(f"{file}: extras_require is known only when it runs")
    if "python_requires" in settings:
        value = names.literal(settings["python_requires"])
        if isinstance(value, str):
            add_python(value, file, into)
        else:
            into.computed.append(f"{file}: python_requires is known only when it runs")


def _read(
    node: ast.expr,
    key: str,
    file: Path,
    kind: Kind,
    names: _Names,
    into: Declarations,
    part: str = "",
) -> None:
    value = names.literal(node)
    if isinstance(value, str):
        value = value.splitlines()
    if isinstance(value, list | tuple):
        add_all([line for line in value if str(line).strip()], file, kind, into, part)
    else:
        into.computed.append(f"{file}: {key} is known only when it runs")


class _Names:
    """Names of a module that are set once, and values of expressions of them that are written out."""

    def __init__(self, tree: ast.Module) -> None:
        found: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        found.setdefault(target.id, []).append(node.value)
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                found.setdefault(node.target.id, []).extend([node.value, node.value])
        self._set_once = {name: values[0] for name, values in found.items() if len(values) == 1}
        self._left = _MOST_STEPS

    def resolved(self, node: ast.expr) -> ast.expr:
        """What a name stands for."""
        while isinstance(node, ast.Name) and node.id in self._set_once and self._left > 0:
            self._left -= 1
            node = self._set_once[node.id]
        return node

    def literal(self, node: ast.expr) -> Any:
        """The value of constants, lists of them and their sums; None for anything else."""
        self._left -= 1
        if self._left < 0:  # names that name each other a million times
            return None
        node = self.resolved(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self.literal(node.left), self.literal(node.right)
            return left + right if type(left) is type(right) and isinstance(left, list | str) else None
        if isinstance(node, ast.List | ast.Tuple):
            values = [self.literal(element) for element in node.elts]
            return None if any(value is None for value in values) else values
        return node.value if isinstance(node, ast.Constant) else None


def _strings(node: ast.expr | None, names: _Names) -> list[str]:
    value = names.literal(node) if node is not None else None
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _is_torch(node: ast.Import | ast.ImportFrom) -> bool:
    modules = (
        [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    )
    return any(module.partition(".")[0] == "torch" for module in modules)
