"""`wf export`: checkpoint folder -> GGUF file or Hugging Face folder (packages/converter)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[Path, typer.Option(help="Converted checkpoint folder.")],
    output: Annotated[Path, typer.Option(help="GGUF file or folder to write.")],
    format: Annotated[str | None, typer.Option(help="gguf (default) or hf.")] = None,
    type: Annotated[
        str | None, typer.Option(help="gguf: auto (default), tq1_0, tq2_0, q2_0, q4_0 or f16.")
    ] = None,
    embeddings: Annotated[str | None, typer.Option(help="gguf: f16 (default) or q8_0.")] = None,
    linear_class: Annotated[
        str | None, typer.Option(help="hf: bitlinear (default) or autobitlinear.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="hf: float32 (default) or bfloat16.")] = None,
    license: Annotated[str | None, typer.Option(help="gguf: SPDX name for general.license.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Prove the export by log-probabilities.")] = False,
    text: Annotated[Path | None, typer.Option(help="Text for --verify.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens that --verify compares (256).")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Mean |log-prob difference| that --verify allows.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the findings of --verify there.")] = None,
) -> None:
    """Export a checkpoint; what would lose information is refused, with the tensor's name.

    Example: wf export --checkpoint outputs/mine/stage2/final --output mine.gguf --verify
    """
    options = dict(locals())
    from wf_deployer.processes import flags, run_foreground
    from wf_deployer.workspace import script_command

    raise typer.Exit(run_foreground([*script_command("export"), *flags(options)]))
