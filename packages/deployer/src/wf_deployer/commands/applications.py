"""The applications that `wf` hands its arguments to, one line each.

`wf X ARGS` becomes `python -m MODULE ... ARGS` with every argument as it is, `--help` too:
options and defaults stand in the application alone. WF_PROG tells it by which name it was called.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

PROGRAM_VARIABLE = "WF_PROG"


@dataclass(frozen=True)
class Application:
    """Attributes: help is the line in `wf --help`; command is what follows `python -m`."""

    name: str
    help: str
    command: tuple[str, ...]


APPLICATIONS = (
    Application("quickstart", "Make and measure a 1.58-bit model in 10 minutes.", ("wf_quickstart",)),
    Application("plan", "Memory, time and cost of a training run.", ("wrinklefree.planning",)),
    Application("export", "Write a checkpoint as GGUF or Hugging Face folder.", ("wf_converter", "export")),
    Application("verify", "Prove an export against its checkpoint.", ("wf_converter", "verify")),
    Application("publish", "Put an export on the Hugging Face hub.", ("wf_converter", "publish")),
    Application("inspect", "Show what a model file holds.", ("wf_converter.inspect",)),
    Application("list", "Show the models here, and what serves them.", ("wf_converter", "list")),
    Application("pull", "Fetch an export from the Hugging Face hub.", ("wf_converter", "pull")),
    Application("run", "Talk to the newest model here, or to one by name.", ("wrinklefree_inference", "run")),
    Application("chat", "Talk to a model in the terminal.", ("wrinklefree_inference", "chat")),
    Application("serve", "Serve a model to OpenAI clients.", ("wrinklefree_inference", "serve")),
    Application(
        "gateway",
        "Serve a model by several servers behind one address.",
        ("wrinklefree_inference", "gateway"),
    ),
    Application("bench", "Measure a model's speed beside llama.cpp.", ("wrinklefree_inference", "bench")),
    Application("eval", "Measure perplexity and tasks of a model.", ("wrinklefree_eval.evaluate",)),
    Application("store", "Folders in gs://, s3:// or a path: ls, get, put, rm, check.", ("wf_stores.main",)),
    Application("audit", "Show and check who ran what: the audit log of a run.", ("wrinklefree.audit",)),
    Application("compare", "Test whether two models' answers differ.", ("wrinklefree_eval.compare",)),
)


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


def application_of(name: str) -> Application:
    return next(application for application in APPLICATIONS if application.name == name)


def starting(application: Application) -> Any:
    """A command's function that becomes the application."""

    def start(ctx: typer.Context) -> None:
        from wf_deployer.processes import become

        command = [sys.executable, "-m", *application.command, *ctx.args]
        become(command, {PROGRAM_VARIABLE: f"wf {application.name}"})

    return start
