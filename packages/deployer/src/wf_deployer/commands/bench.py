"""`wf bench`: prompt and generation speed of a model beside llama.cpp (packages/inference)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    model: Annotated[Path, typer.Option(help="GGUF file, or folder of a packed model.")],
    prompt_tokens: Annotated[int | None, typer.Option(help="Length of the prompt (128); 0: none.")] = None,
    generate_tokens: Annotated[
        int | None, typer.Option(help="Tokens that each sequence generates (64); 0: none.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Runs of each test (5); the median counts.")] = None,
    batch: Annotated[str | None, typer.Option(help="Parallel sequences, with commas (1,16).")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads (all cores).")] = None,
    engine: Annotated[str | None, typer.Option(help="native (default) or llamacpp.")] = None,
    no_compare: Annotated[
        bool, typer.Option("--no-compare/--compare", help="Leave llama.cpp out, or measure it too (default).")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write every run there, with the hardware.")] = None,
) -> None:
    """Measure a model like llama-bench, side by side with llama.cpp.

    Example: wf bench --model outputs/quickstart/export/model.gguf --batch 1,16 --json speed.json
    """
    options = dict(locals())
    from wf_deployer.processes import flags, run_foreground
    from wf_deployer.workspace import module_command

    raise typer.Exit(run_foreground([*module_command("wrinklefree_inference"), "bench", *flags(options)]))
