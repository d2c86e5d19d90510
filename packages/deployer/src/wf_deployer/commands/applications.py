"""The applications (`wf_deployer.applications`) as commands of `wf`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from wf_deployer.applications import APPLICATIONS, Application, become_application, is_handed_on


class _HandingOn(TyperCommand):
    """Parses nothing: all arguments become `ctx.args`, in their order, with `--` and `--help`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args


class HereOrElsewhere(TyperCommand):
    """Parses nothing unless one of the application's `own_options` is there."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not is_handed_on(str(ctx.info_name), args):
            parsed: list[str] = super().parse_args(ctx, args)
            return parsed
        ctx.args = list(args)
        return ctx.args


def register(app: typer.Typer, own: Mapping[str, Any]) -> None:
    """Makes a command of every application.

    Args:
        own: Functions of those that `wf` itself takes a part of; options that one does not name are left in
            `ctx.args`.
    """
    hands_on = {"ignore_unknown_options": True, "allow_extra_args": True}
    for application in APPLICATIONS:
        if application.name in own:
            new = app.command(
                application.name,
                cls=HereOrElsewhere,
                short_help=application.help,
                context_settings=hands_on if application.shows else None,
            )
            new(own[application.name])
        else:
            app.command(application.name, cls=_HandingOn, help=application.help)(starting(application))


def starting(application: Application) -> Any:
    """A command's function that becomes the application."""

    def start(ctx: typer.Context) -> None:
        become_application(application.name, ctx.args)

    return start
