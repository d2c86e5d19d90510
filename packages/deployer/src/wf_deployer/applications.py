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

ELSEWHERE_OPTION = "--cloud"
"""With which `wf serve` is `wf`'s own command."""


def application_of(name: str) -> Application:
    return next(application for application in APPLICATIONS if application.name == name)


def is_handed_on(name: str, arguments: Sequence[str]) -> bool:
    """Whether a command line is an application's: of `serve` what has no `--cloud` before a `--`."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    is_elsewhere = name == "serve" and any(one.partition("=")[0] == ELSEWHERE_OPTION for one in own)
    return not is_elsewhere and any(application.name == name for application in APPLICATIONS)


def become_application(name: str, arguments: Sequence[str]) -> NoReturn:
    """Runs an application in place of this process."""
    from wf_deployer.processes import become

    command = [sys.executable, "-m", *application_of(name).command, *arguments]
    become(command, {PROGRAM_VARIABLE: f"wf {name}"})
