"""The command line: one module of `commands` per sub-command."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from wf_formats.boundary import boundary
from wrinklefree_inference.commands import bench, chat, serve

app = typer.Typer(
    name="wrinklefree_inference",
    help="Chat with a model, or serve it to OpenAI clients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _framed(command: Callable[..., None]) -> Callable[..., None]:
    """The command with its user's errors as one line."""

    @wraps(command)
    def framed(*args: Any, **options: Any) -> None:
        with boundary():
            command(*args, **options)

    return framed


app.command("chat")(_framed(chat.chat))
app.command("serve")(_framed(serve.serve))
app.command("bench")(_framed(bench.bench))
