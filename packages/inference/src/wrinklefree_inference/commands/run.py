"""`run`: `chat` with the model and the question as plain arguments."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wrinklefree_inference.commands.chat import KINDS, chat
from wrinklefree_inference.commands.flags import with_flags
from wrinklefree_inference.commands.models import MODEL
from wrinklefree_inference.engines import ENGINES
from wrinklefree_inference.engines.base import Sampling


@with_flags(KINDS, Sampling)
def run(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(help=MODEL)] = None,
    prompt: Annotated[str | None, typer.Argument(help="Answer this once, print it and stop.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    engine: Annotated[str | None, typer.Option(help=f"One of {', '.join(ENGINES)}; as in wf chat.")] = None,
    **given: Any,
) -> None:
    """Talk to the newest model here, or to the one that is named.

    Examples:

      wf run

      wf run outputs/quickstart/export/model.gguf "Who are you?"
    """
    chat(ctx, model, prompt, system, engine, **given)
