"""The command line: one module of `commands` per sub-command."""

from __future__ import annotations

import typer
from typer.core import TyperCommand, TyperGroup

from wf_formats.boundary import Framed
from wrinklefree_inference.commands import bench, chat, gateway, run, serve


class Application(Framed, TyperGroup):
    """Its commands raise what the user can mend; the frame around them says it in one line."""


class Command(Framed, TyperCommand):
    """One of them."""


app = typer.Typer(
    cls=Application,
    name="wrinklefree_inference",
    help="Chat with a model, or serve it to OpenAI clients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("chat", cls=Command)(chat.chat)
app.command("run", cls=Command)(run.run)
app.command("serve", cls=Command)(serve.serve)
app.command("gateway", cls=Command)(gateway.gateway)
app.command("bench", cls=Command)(bench.bench)
