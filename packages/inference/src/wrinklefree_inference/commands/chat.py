"""`chat`: talk to a model in the terminal.

An answer is whatever model or server say: on a terminal what would steer it is shown escaped
(`wf_formats.printable`); a pipe or file gets the answer's own characters.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wf_formats.errors import RequestError
from wf_formats.printable import legible, printable
from wrinklefree_inference.commands.flags import build, refuse_others, with_flags
from wrinklefree_inference.commands.models import MODEL, chosen_model
from wrinklefree_inference.engines import ENGINES, check_engine, engine_for, open_engine
from wrinklefree_inference.engines.base import Engine, Message, Sampling
from wrinklefree_inference.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

_HELP = "Empty line or /quit ends, /clear forgets the conversation."


KINDS = {name: engine.options for name, engine in ENGINES.items()}


@with_flags(KINDS, Sampling)
def chat(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    prompt: Annotated[str | None, typer.Option(help="Answer this once, print it to stdout and stop.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(ENGINES)}; if not given openai for a URL, native for files and folders."
        ),
    ] = None,
    **given: Any,
) -> None:
    """Chat with a model in the terminal.

    The native engine runs ternary models and GGUF files of 4 to 8 bits (Q4_0, Q4_K_M, Q5_K_M, Q6_K, Q8_0);
    llama.cpp runs any GGUF file.

    Examples:

      wf chat

      wf chat --model outputs/quickstart/export/model.gguf

      wf chat --model model.gguf --prompt "Who are you?"

      wf chat --model dense.gguf --engine llamacpp
    """
    start: list[Message] = [{"role": "system", "content": _utf8("--system", system)}] if system else []
    sampling = build(Sampling, given)
    model = chosen_model(model)
    name = check_engine(engine or engine_for(model))
    refuse_others(ctx, name, KINDS)
    opened = open_engine(model, name, build(KINDS[name], given))
    try:
        facts = ", ".join(text for _, text in opened.facts.rows())
        typer.echo(printable(facts), err=True)
        if prompt is not None:
            answer(opened, [*start, {"role": "user", "content": _utf8("--prompt", prompt)}], sampling)
        else:
            converse(opened, start, sampling)
    finally:
        opened.close()


def converse(engine: Engine, start: list[Message], sampling: Sampling) -> None:
    """Answer lines from stdin until it ends."""
    typer.echo(_HELP, err=True)
    history = list(start)
    for line in _lines():
        if line == "/clear":
            history = list(start)
            typer.echo("(forgotten)", err=True)
            continue
        history.append({"role": "user", "content": line})
        text = answer(engine, history, sampling)
        history.append({"role": "assistant", "content": text})


def answer(engine: Engine, messages: list[Message], sampling: Sampling) -> str:
    """Print the answer to stdout while it comes, its speed to stderr; return the text.

    Raises:
        EngineError: It breaks off; what came of it stands on a line of its own.
    """
    stream = engine.chat(messages, sampling)
    pieces: list[str] = []
    try:
        for piece in stream:
            _show(piece)
            pieces.append(piece)
    except EngineError:
        if pieces:
            typer.echo()
        raise
    typer.echo()
    if stream.usage is not None:
        typer.echo(f"[{stream.usage}]", err=True)
    return "".join(pieces)


def _show(piece: str) -> None:
    """A piece of the answer at once; typer's own echo would take colours out of what goes into a pipe."""
    sys.stdout.write(legible(piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


def _utf8(option: str, text: str) -> str:
    """The text, if it is one: arguments that are not UTF-8 come as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{option} is not UTF-8 at character {error.start}: {text[:80]!r}") from error
    return text


def _lines() -> Iterator[str]:
    while True:
        typer.echo("> ", nl=False, err=True)
        try:
            line = input().strip()
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeDecodeError as error:
            raise RequestError(
                f"the input is not UTF-8 ({error}): convert it, or set PYTHONUTF8=1"
            ) from error
        if line in ("", "/quit"):
            return
        yield line
