"""An empty path is refused by every command of the workspace: as a `Path` it would be the current folder."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from wf_formats.boundary import given_path

APPLICATIONS = (
    "wf_deployer.main",
    "wf_deployer.sync.main",
    "wf_quickstart.cli",
    "wf_stores.main",
    "wrinklefree_eval.compare",
    "wrinklefree_eval.evaluate",
    "wrinklefree_inference.cli",
)
FUNCTIONS = {
    "export": "export",
    "inspect": "inspect",
    "prove": "verify_command",
    "publish": "publish",
    "pull": "pull",
}
"""Of `wf_converter`, by module."""


def commands() -> Iterator[Any]:
    """All that parse arguments of their own."""
    from wf_converter.command import command_line

    apps = [import_module(name).app for name in APPLICATIONS]
    apps += [command_line(getattr(import_module(f"wf_converter.{m}"), f)) for m, f in FUNCTIONS.items()]
    for app in apps:
        built = typer.main.get_command(app)
        yield from getattr(built, "commands", {built.name: built}).values()


def paths_of(command: Any) -> list[str]:
    """Names of the parameters that are paths."""
    try:
        parameters = inspect.signature(command.callback, eval_str=True).parameters
    except NameError:  # annotations that are imported for type checkers alone
        parameters = inspect.signature(command.callback).parameters
    return [name for name, parameter in parameters.items() if "Path" in str(parameter.annotation)]


def arguments(command: Any, tested: str) -> list[str]:
    """The command line with the tested path empty, and something for all that is needed besides."""
    given = []
    for parameter in command.params:
        is_option = parameter.opts[0].startswith("-")
        if parameter.name == tested:
            given += [parameter.opts[0], ""] if is_option else [""]
        elif parameter.required:
            given += [parameter.opts[0], "x"] if is_option else ["x"]
    return given


def test_an_empty_path_is_refused_by_its_name(capsys):
    found = set()
    for command, name in ((one, path) for one in commands() for path in paths_of(one)):
        found.add((command.name, name))
        (parameter,) = (one for one in command.params if one.name == name)
        with pytest.raises(SystemExit) as end:
            command.main(arguments(command, name))
        assert end.value.code == 2, found
        shown = max(parameter.opts, key=len) if parameter.opts[0].startswith("-") else name.upper()
        told = capsys.readouterr().err
        assert shown in told
        assert (
            f"error: {shown} is empty: give a path; the current folder is .\n" == told
            or "a directory" in told
        )
    assert {("serve", "vllm"), ("serve", "adapter"), ("chat", "draft_model")} <= found
    assert {("quickstart", "text"), ("export", "checkpoint")} <= found
    assert len(found) > 30, found


def test_the_current_folder_can_be_given_and_an_empty_variable_is_none():
    app = import_module("wrinklefree_inference.cli").app
    serve = ["serve", "--engine", "vllm", "--model", "x"]
    for more, variable in (([], ""), (["--vllm", "."], "")):
        done = CliRunner().invoke(app, [*serve, *more], env={"WF_VLLM": variable})
        assert done.exit_code != 0
        assert "is empty" not in done.stderr


def test_argparse_too(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=given_path)
    assert str(parser.parse_args(["--output", "."]).output) == "."
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--output", ""])
    assert end.value.code == 2
    assert "argument --output: it is empty: give a path" in capsys.readouterr().err
