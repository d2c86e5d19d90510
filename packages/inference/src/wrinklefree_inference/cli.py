"""The command line: one module of `commands` per sub-command."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

from wf_formats.boundary import Framed
from wrinklefree_inference.commands import bench, chat, gateway, run, serve


class Application(Framed, TyperGroup):
    """Its commands raise what the user can mend; the frame around them says it in one line."""


app = typer.Typer(
    cls=Application,
    name="wrinklefree_inference",
    help="Chat with a model, or serve it to OpenAI clients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("chat")(chat.chat)
app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("gateway")(gateway.gateway)
app.command("bench")(bench.bench)
