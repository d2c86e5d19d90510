"""The applications (`wf_deployer.applications`) as commands of `wf`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from wf_deployer.applications import APPLICATIONS, Application, become_application


class _HandingOn(TyperCommand):
    """Parses nothing: all arguments become `ctx.args`, in their order, with `--` and `--help`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args


def register(app: typer.Typer, own: Mapping[str, tuple[type[TyperCommand], Any]]) -> None:
    """Makes a command of every application.

    Args:
        own: Class and function of those that `wf` itself takes a part of.
    """
    for application in APPLICATIONS:
        if application.name in own:
            kind, function = own[application.name]
            app.command(application.name, cls=kind, short_help=application.help)(function)
        else:
            app.command(application.name, cls=_HandingOn, help=application.help)(starting(application))


def starting(application: Application) -> Any:
    """A command's function that becomes the application."""

    def start(ctx: typer.Context) -> None:
        become_application(application.name, ctx.args)

    return start
