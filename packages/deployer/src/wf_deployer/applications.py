"""The applications that `wf` hands its arguments to, one line each.

`wf X ARGS` becomes `python -m MODULE ... ARGS` with every argument as it is, `--help` too:
options and defaults stand in the application alone. WF_PROG tells it by which name it was called.

The standard library is enough for all of it, and for the becoming: typer would take longer to import than the
rest of `wf` takes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

PROGRAM_VARIABLE = "WF_PROG"


@dataclass(frozen=True)
class Application:
    """An application.

    Attributes:
        help: The line in `wf --help`.
        command: What follows `python -m`.
        own_options: With one of these before a `--` it is `wf`'s own command.
        shows: As `command`, of what prints a file of results that a job of it has left.
    """

    name: str
    help: str
    command: tuple[str, ...]
    own_options: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()


APPLICATIONS = (
    Application("quickstart", "Make and measure a 1.58-bit model in 10 minutes.", ("wf_quickstart",)),
    Application("plan", "Memory, time and cost of a training run.", ("wrinklefree.planning",)),
    Application("data", "Choose text to train on: dedup, score, select, mix.", ("wrinklefree.data_choice",)),
    Application("dlm", "Make a diffusion model of an autoregressive one.", ("wrinklefree_distillation.dlm",)),
    Application("export", "Write a checkpoint as GGUF or Hugging Face folder.", ("wf_converter", "export")),
    Application("verify", "Prove an export against its checkpoint.", ("wf_converter", "verify")),
    Application("publish", "Put an export on the Hugging Face hub.", ("wf_converter", "publish")),
    Application("inspect", "Show what a model file holds.", ("wf_converter.inspect",)),
    Application("list", "Show the models here, and what serves them.", ("wf_converter", "list")),
    Application("pull", "Fetch an export from the Hugging Face hub.", ("wf_converter", "pull")),
    Application("run", "Talk to the newest model here, or to one by name.", ("wrinklefree_inference", "run")),
    Application("chat", "Talk to a model in the terminal.", ("wrinklefree_inference", "chat")),
    Application(
        "serve",
        "Serve a model to OpenAI clients.",
        ("wrinklefree_inference", "serve"),
        own_options=("--cloud",),
    ),
    Application(
        "gateway",
        "Serve a model by several servers behind one address.",
        ("wrinklefree_inference", "gateway"),
    ),
    Application("bench", "Measure a model's speed beside llama.cpp.", ("wrinklefree_inference", "bench")),
    Application(
        "eval",
        "Measure perplexity and tasks of a model.",
        ("wrinklefree_eval.evaluate",),
        own_options=("--cloud", "--results"),
        shows=("wrinklefree_eval.show",),
    ),
    Application("store", "Folders in gs://, s3:// or a path: ls, get, put, rm, check.", ("wf_stores.main",)),
    Application("audit", "Show and check who ran what: the audit log of a run.", ("wrinklefree.audit",)),
    Application("compare", "Test whether two models' answers differ.", ("wrinklefree_eval.compare",)),
)


def application_of(name: str) -> Application:
    return next(application for application in APPLICATIONS if application.name == name)


def is_handed_on(name: str, arguments: Sequence[str]) -> bool:
    """Whether a command line is an application's: one without `own_options` of it."""
    if not any(application.name == name for application in APPLICATIONS):
        return False
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    own_options = application_of(name).own_options
    return not any(one.partition("=")[0] in own_options for one in before)


def become_application(name: str, arguments: Sequence[str]) -> NoReturn:
    """Runs an application in place of this process."""
    _become(name, application_of(name).command, arguments)


def become_showing(application: Application, file: str) -> NoReturn:
    """Runs what shows a file of an application's results in place of this process."""
    _become(application.name, application.shows, [file])


def _become(name: str, command: Sequence[str], arguments: Sequence[str]) -> NoReturn:
    from wf_deployer.processes import become

    become([sys.executable, "-m", *command, *arguments], {PROGRAM_VARIABLE: f"wf {name}"})
