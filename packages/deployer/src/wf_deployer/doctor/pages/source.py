"""The options of a script read off its source: a script that imports PyTorch first takes seconds to ask.

`parser.add_argument("--name", ...)` with names, nargs, choices and action written out is what our benchmarks
have; of anything else the script itself is asked (children/surface.py). A slow test compares both.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from wf_deployer.doctor.files import FileError, read_text
from wf_deployer.doctor.pages.surface import Option, Surface

_MANY = ("*", "+", "...")
_FLAGS = ("store_true", "store_false", "store_const", "count", "version", "help")
_PARSER = "ArgumentParser"


def surface_of_source(path: Path, root: Path) -> Surface | None:
    """None if the file, or the module of the checkout that it only starts, builds no parser in this way."""
    try:
        tree = ast.parse(read_text(path))
    except (SyntaxError, ValueError, RecursionError, FileError):
        return None
    if (started := _started(tree, root)) is not None:
        return surface_of_source(started, root)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    added = [call for call in calls if _name(call) == "add_argument"]
    odd = ("add_subparsers", "add_parser", "add_argument_group", "add_mutually_exclusive_group")
    if not any(_name(call) == _PARSER for call in calls) or any(_name(call) in odd for call in calls):
        return None
    try:
        return _surface(added)
    except ValueError:  # something that is not written out
        return None


def _started(tree: ast.Module, root: Path) -> Path | None:
    """The file of `main` in `from MODULE import main`."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["main"]:
            files = sorted(root.glob(f"packages/*/src/{(node.module or '').replace('.', '/')}.py"))
            return files[0] if files else None
    return None


def _surface(added: list[ast.Call]) -> Surface:
    help_option = Option(0)
    options = {"-h": help_option, "--help": help_option}
    counts: list[int | None] = []
    for call in added:
        names = [ast.literal_eval(argument) for argument in call.args]
        settings = {keyword.arg: keyword.value for keyword in call.keywords}
        if names[0].startswith("-"):
            options |= dict.fromkeys(names, Option(_values(settings), _choices(settings)))
        else:
            counts.append(_values(settings))
    known = [count for count in counts if count is not None]
    return Surface(options, sum(known) if len(known) == len(counts) else None)


def _values(settings: dict[str | None, ast.expr]) -> int | None:
    action = ast.literal_eval(settings["action"]) if "action" in settings else "store"
    if action in _FLAGS:
        return 0
    nargs: Any = ast.literal_eval(settings["nargs"]) if "nargs" in settings else 1
    if nargs in _MANY:
        return None
    return 1 if nargs == "?" else int(nargs)


def _choices(settings: dict[str | None, ast.expr]) -> tuple[str, ...]:
    """Those that are written out; a name of a list elsewhere gives none."""
    try:
        return tuple(map(str, ast.literal_eval(settings["choices"]))) if "choices" in settings else ()
    except ValueError:
        return ()


def _name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
