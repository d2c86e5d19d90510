"""`wf chat`: talk to a model in the terminal (packages/inference)."""

from __future__ import annotations

from typing import Annotated

import typer


def chat(
    model: Annotated[str, typer.Option(help="A .gguf file, an exported folder, or the URL of a server.")],
    prompt: Annotated[str | None, typer.Option(help="Answer this once and stop.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer (512).")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy (0.7).")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling (0.95).")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes an answer repeatable.")] = None,
    context: Annotated[
        int | None, typer.Option(help="native, llamacpp: tokens of context (4096, or all the model has).")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="native, llamacpp: threads (all cores).")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="native, llamacpp or openai; if not given openai for a URL, native for files and folders."
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="WF_API_KEY", help="openai: key of the server.")
    ] = None,
) -> None:
    """Chat with a model in the terminal.

    The native engine runs ternary models; llama.cpp runs any GGUF file.

    Examples:

      wf chat --model outputs/quickstart/export/model.gguf

      wf chat --model dense.gguf --engine llamacpp
    """
    options = dict(locals())
    from wf_deployer.processes import api_key_environment, flags, run_foreground
    from wf_deployer.workspace import module_command

    environment = api_key_environment(options.pop("api_key"))
    command = [*module_command("wrinklefree_inference"), "chat", *flags(options)]
    raise typer.Exit(run_foreground(command, environment))
