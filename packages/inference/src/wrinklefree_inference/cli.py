"""The command line: one module of `commands` per sub-command."""

from __future__ import annotations

import typer

from wrinklefree_inference.commands import bench, chat, serve

app = typer.Typer(
    name="wrinklefree_inference",
    help="Chat with a model, or serve it to OpenAI clients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("bench")(bench.bench)
