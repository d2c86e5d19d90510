"""What programs of a checkout take on their command line, and whether given configurations compose.

Reads {"programs": [argv, ...], "configurations": [argv, ...]}. Each program is begun as it always is and
stopped where it hands its arguments to typer or argparse; what was built there is the answer. So nothing of
it is written down twice, and PyTorch is imported once for all. A configuration is a program and arguments,
`--cfg` among them, that run to their end if the program knows `--cfg`.

Answers {"programs": [surface or {"error": ...}], "configurations": ["" or what was refused]}.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from importlib import import_module
from typing import Any, NoReturn

import typer
import typer.main

_MANY = (argparse.ZERO_OR_MORE, argparse.ONE_OR_MORE, argparse.REMAINDER)


class _BuiltError(BaseException):
    """Carries what parses the arguments out of a program; no `except Exception` holds it up."""

    def __init__(self, parser: Any) -> None:
        self.parser = parser


def main() -> None:
    question = json.load(sys.stdin)
    answers = {
        "programs": [_surface(argv) for argv in question["programs"]],
        "configurations": [_refusal(argv) for argv in question["configurations"]],
    }
    sys.stdout.write(json.dumps(answers) + "\n")


def _surface(argv: Sequence[str]) -> dict[str, Any]:
    if argv[0] == "wf":
        return _of_command(typer.main.get_command(import_module("wf_deployer.main").app))
    try:
        parser = _parser_of(argv)
    except Exception as error:  # noqa: BLE001  # the answer is the error itself
        return {"error": f"{type(error).__name__}: {error}"}
    if isinstance(parser, str):
        return {"error": parser}
    if isinstance(parser, argparse.ArgumentParser):
        return _of_argparse(parser)
    for name in _rest(argv):
        if commands := getattr(parser, "commands", None):  # else the program has chosen the command itself
            if name not in commands:
                return {"error": f"no command {name!r}; there is {', '.join(commands)}"}
            parser = commands[name]
    return _of_command(parser)


def _parser_of(argv: Sequence[str]) -> Any:
    """What the program hands its arguments to; or a reason, if it does not come to that."""
    told = io.StringIO()
    try:
        with _stopped_at_arguments(), contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            _start(argv, [*_rest(argv), "--help"])
    except _BuiltError as built:
        return built.parser
    except SystemExit as end:
        return f"ended with {end.code}: {told.getvalue()[-300:]}"
    return "took its arguments without typer or argparse"


def _refusal(argv: Sequence[str]) -> str:
    num_words = 2 if argv[0] == "-m" else 1
    program, arguments = argv[:num_words], argv[num_words:]
    if "--cfg" not in _surface(program).get("options", ()):
        return ""  # it would be a run
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
            _start(program, arguments)
    except SystemExit as end:
        return "" if end.code in (None, 0) else told.getvalue().strip() or str(end.code)
    return ""


def _start(argv: Sequence[str], arguments: Sequence[str]) -> None:
    """Runs `-m module` or a script in this process."""
    sys.argv = [argv[0], *arguments]
    if argv[0] == "-m":
        os.environ["WF_PROG"] = " ".join(["wf", *_rest(argv)])
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return
    folder = os.path.dirname(os.path.abspath(argv[0]))
    sys.path.insert(0, folder)  # as Python does for a script
    try:
        runpy.run_path(argv[0], run_name="__main__")
    finally:
        sys.path.remove(folder)


def _rest(argv: Sequence[str]) -> Sequence[str]:
    """Sub-commands behind the program."""
    return argv[2:] if argv[0] == "-m" else argv[1:]


@contextlib.contextmanager
def _stopped_at_arguments() -> Iterator[None]:
    def typer_app(app: typer.Typer, *_args: Any, **_options: Any) -> NoReturn:
        raise _BuiltError(typer.main.get_command(app))

    def parser(built: argparse.ArgumentParser, *_args: Any, **_options: Any) -> NoReturn:
        raise _BuiltError(built)

    names = ("parse_known_args", "parse_known_intermixed_args")
    before = {name: getattr(argparse.ArgumentParser, name) for name in names}
    before_typer = typer.Typer.__call__
    try:
        typer.Typer.__call__ = typer_app  # type: ignore[method-assign, assignment]
        for name in names:
            setattr(argparse.ArgumentParser, name, parser)
        yield
    finally:
        typer.Typer.__call__ = before_typer  # type: ignore[method-assign]
        for name, function in before.items():
            setattr(argparse.ArgumentParser, name, function)


def _of_argparse(parser: argparse.ArgumentParser) -> dict[str, Any]:
    options: dict[str, Any] = {}
    counts: list[int | None] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = {name: _of_argparse(sub) for name, sub in action.choices.items()}
            return {"options": options, "most_arguments": None, "commands": commands}
        if action.option_strings:
            entry = {"values": _count(action), "choices": [str(choice) for choice in action.choices or ()]}
            options |= dict.fromkeys(action.option_strings, entry)
        else:
            counts.append(_count(action))
    known = [count for count in counts if count is not None]
    most = sum(known) if len(known) == len(counts) else None
    return {"options": options, "most_arguments": most, "commands": {}}


def _count(action: argparse.Action) -> int | None:
    if action.nargs in _MANY:
        return None
    if action.nargs is None or action.nargs == argparse.OPTIONAL:
        return 1
    return int(action.nargs)


def _of_command(command: Any) -> dict[str, Any]:
    """A command or group of click's shape."""
    options: dict[str, Any] = {"--help": {"values": 0, "choices": []}}
    counts: list[int] = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            counts.append(parameter.nargs)
            continue
        values = 0 if parameter.is_flag or parameter.count else parameter.nargs
        entry = {"values": values, "choices": _choices(parameter)}
        options |= dict.fromkeys([*parameter.opts, *parameter.secondary_opts], entry)
    hands_on = type(command).parse_args.__module__ == "wf_deployer.commands.applications"
    most = None if hands_on or any(count < 0 for count in counts) else sum(counts)
    commands = {name: _of_command(sub) for name, sub in getattr(command, "commands", {}).items()}
    return {"options": options, "most_arguments": most, "commands": commands}


def _choices(parameter: Any) -> list[str]:
    """Values of an Enum, as typer 0.2x keeps it or as click does."""
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(member.value) for member in kind]
    return [str(choice) for choice in getattr(getattr(parameter, "type", None), "choices", ())]


if __name__ == "__main__":
    main()
