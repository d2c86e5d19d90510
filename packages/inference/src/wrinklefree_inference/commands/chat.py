"""`chat`: talk to a model in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrinklefree_inference.engines import ENGINES, engine_for, open_engine
from wrinklefree_inference.engines.base import Engine, Message, Sampling
from wrinklefree_inference.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

_HELP = "Empty line or /quit ends, /clear forgets the conversation."


def chat(
    model: Annotated[str, typer.Option(help="A .gguf file, an exported folder, or the URL of a server.")],
    prompt: Annotated[str | None, typer.Option(help="Answer this once, print it to stdout and stop.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0, help="Nucleus sampling.")] = 0.95,
    seed: Annotated[int | None, typer.Option(help="Makes an answer repeatable.")] = None,
    context: Annotated[
        int | None,
        typer.Option(min=16, help="native, llamacpp: tokens of context (4096, or all the model has)."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="native, llamacpp: threads (all cores).")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(ENGINES)}; if not given openai for a URL, native for files and folders."
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="WF_API_KEY", help="openai: key of the server.")
    ] = None,
) -> None:
    """Chat with a model in the terminal.

    The native engine runs ternary models; llama.cpp runs any GGUF file.

    Examples:

      python -m wrinklefree_inference chat --model model.gguf --prompt "Who are you?"

      python -m wrinklefree_inference chat --model dense.gguf --engine llamacpp
    """
    sampling = Sampling(max_tokens, temperature, top_p, seed)
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    try:
        name = engine or engine_for(model)
        opened = open_engine(model, name, **_engine_options(name, context, threads, api_key))
        try:
            facts = ", ".join(text for _, text in opened.facts.rows())
            typer.echo(facts, err=True)
            if prompt is not None:
                answer(opened, [*start, {"role": "user", "content": prompt}], sampling)
            else:
                converse(opened, start, sampling)
        finally:
            opened.close()
    except (EngineError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _engine_options(
    engine: str, context: int | None, threads: int | None, api_key: str | None
) -> dict[str, Any]:
    """Keywords of the engine's class; a key may also stand in the environment where no engine needs one.

    Raises:
        ValueError: An option that would have no effect.
    """
    given = {"context_tokens": context, "num_threads": threads}
    given = {name: value for name, value in given.items() if value is not None}
    if engine != "openai":
        return given
    if given:
        raise ValueError("--context and --threads have no effect with --engine openai: the server decides")
    return {"api_key": api_key}


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
    """Print the answer to stdout while it comes, its speed to stderr; return the text."""
    stream = engine.chat(messages, sampling)
    pieces = []
    for piece in stream:
        typer.echo(piece, nl=False)
        pieces.append(piece)
    typer.echo()
    if stream.usage is not None:
        typer.echo(f"[{stream.usage}]", err=True)
    return "".join(pieces)


def _lines() -> Iterator[str]:
    while True:
        typer.echo("> ", nl=False, err=True)
        try:
            line = input().strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in ("", "/quit"):
            return
        yield line
