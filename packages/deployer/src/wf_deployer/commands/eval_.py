"""`wf eval`: perplexity and tasks of a checkpoint, an exported folder or a GGUF (packages/eval)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model_path: Annotated[Path, typer.Option(help="Checkpoint folder, exported folder or GGUF file.")],
    text: Annotated[
        list[Path] | None, typer.Option(help="Text for perplexity: .txt, .jsonl, .jsonl.gz; may be repeated.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="lm-eval tasks, with commas between.")] = None,
    tasks_dir: Annotated[Path | None, typer.Option(help="Folder of lm-eval task files (ours).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the tasks' data.")] = None,
    limit: Annotated[int | None, typer.Option(help="Samples of each task (all).")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of context (1024).")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens between windows (the widest).")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Scored tokens of each text (all).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of tasks in PyTorch (4).")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads (all cores).")] = None,
    kind: Annotated[str | None, typer.Option(help="Kind of model; recognised if not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Evaluate a model: perplexity on text files and lm-eval tasks.

    Example: wf eval --model-path outputs/mine/stage2/final --text held_out.txt --output results.json
    """
    options = dict(locals())
    from wf_deployer.processes import flags, run_foreground
    from wf_deployer.workspace import script_command

    raise typer.Exit(run_foreground([*script_command("evaluate"), *flags(options)]))
