"""Command line: checkpoint folder -> GGUF file or Hugging Face folder, and the proof of either."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from wf_converter.errors import ExportError
from wf_converter.proof_limits import DEFAULT_TOKENS, DEFAULT_TOLERANCE, MIN_TOKENS
from wf_formats.gguf.codecs import EMBEDDING_TYPES, EXPORT_TYPES

if TYPE_CHECKING:
    from wf_converter.gguf_export import GgufExport
    from wf_converter.hf_export import HfExport
    from wf_converter.verify import Verification

EXPORT_TYPE_NAMES = ", ".join(kind.label for kind in EXPORT_TYPES)
EMBEDDING_TYPE_NAMES = " or ".join(EMBEDDING_TYPES)
console = Console(stderr=True)


class Format(StrEnum):
    """Target of an export."""

    GGUF = "gguf"
    HF = "hf"


def export(
    checkpoint: Annotated[Path, typer.Option(help="Converted checkpoint folder.")],
    output: Annotated[Path, typer.Option(help="GGUF file or folder to write.")],
    format: Annotated[Format, typer.Option(help="gguf (llama.cpp) or hf (transformers).")] = Format.GGUF,
    type: Annotated[
        str, typer.Option(help=f"gguf: auto or {EXPORT_TYPE_NAMES} for ternary matrices.")
    ] = "auto",
    embeddings: Annotated[
        str, typer.Option(help=f"gguf: {EMBEDDING_TYPE_NAMES}, embeddings and head.")
    ] = "f16",
    linear_class: Annotated[
        str, typer.Option(help="hf, SubLN models: bitlinear or autobitlinear.")
    ] = "bitlinear",
    dtype: Annotated[str, typer.Option(help="hf: float32 or bfloat16 of the other tensors.")] = "float32",
    license: Annotated[str | None, typer.Option(help="gguf: SPDX name for general.license.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing output.")] = False,
    verify: Annotated[bool, typer.Option(help="Prove the export when written.")] = False,
    text: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Text for --verify; by default Python's documentation."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of the text that --verify compares.")] = DEFAULT_TOKENS,
    tolerance: Annotated[
        float, typer.Option(help="Mean |log-prob difference| that --verify allows.")
    ] = DEFAULT_TOLERANCE,
    json_output: Annotated[
        Path | None, typer.Option("--json", help="Write the findings of --verify there.")
    ] = None,
) -> None:
    """Exports a checkpoint; what would lose information is refused, with the tensor's name.

    Examples:

      wf export --checkpoint runs/x/stage2/final --output x.gguf --embeddings q8_0 --verify

      wf export --checkpoint runs/x/stage2/final --format hf --output x-bitnet
    """
    _refuse_existing(output, checkpoint, overwrite)
    if format is Format.GGUF:
        _export_gguf(checkpoint, output, type, embeddings, license)
    else:
        _export_hf(checkpoint, output, linear_class, dtype)
    console.print(f"wrote {output}")
    if verify:
        run_verification(checkpoint, output, text, tokens, tolerance, json_output)


def verify_command(
    checkpoint: Annotated[Path, typer.Option(help="Converted checkpoint folder.")],
    export: Annotated[Path, typer.Option(help="GGUF file or exported folder.")],
    text: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Text; by default Python's documentation."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(help=f"Tokens of the text to compare ({MIN_TOKENS} or more).")
    ] = DEFAULT_TOKENS,
    tolerance: Annotated[
        float, typer.Option(help="Mean |log-prob difference| that passes.")
    ] = DEFAULT_TOLERANCE,
    json_output: Annotated[
        Path | None, typer.Option("--json", help="Write the findings there instead of to stdout.")
    ] = None,
) -> None:
    """Proves an export against its checkpoint; exit code 1 where it differs beyond the tolerance.

    Example:

      wf verify --checkpoint runs/x/stage2/final --export x.gguf
    """
    run_verification(checkpoint, export, text, tokens, tolerance, json_output)


def _refuse_existing(output: Path, checkpoint: Path, overwrite: bool) -> None:
    if output.resolve() == checkpoint.resolve():
        raise typer.BadParameter(f"{output} is the checkpoint itself", param_hint="--output")
    if output.exists() and not overwrite:
        raise typer.BadParameter(f"{output} exists; pass --overwrite", param_hint="--output")


def _export_gguf(
    checkpoint: Path, output: Path, wanted: str, embeddings: str, license_name: str | None
) -> None:
    from wf_converter.gguf_export import prepare_gguf

    prepared = prepare_gguf(checkpoint, wanted, embeddings, license_name)
    console.print(gguf_table(prepared))
    with Progress(console=console) as progress:
        task = progress.add_task("writing", total=prepared.num_bytes)
        prepared.write(output, lambda tensor: progress.advance(task, tensor.num_bytes))


def _export_hf(checkpoint: Path, output: Path, linear_class: str, dtype: str) -> None:
    from wf_converter.hf_export import prepare_hf

    prepared: HfExport = prepare_hf(checkpoint, linear_class, dtype)
    console.print(f"layout {prepared.layout}, {len(prepared.names)} tensors, others {dtype}")
    with Progress(console=console) as progress:
        task = progress.add_task("writing", total=len(prepared.names))
        prepared.write(output, lambda name: progress.advance(task))


def gguf_table(prepared: GgufExport) -> Table:
    """One row per kind of tensor and type: count, bits, size and why."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for tensor in prepared.tensors:
        kind = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else tensor.name
        if tensor.type_name == "f32":
            kind = "norms, scales, biases"
        key = (kind, tensor.type_name, tensor.reason)
        groups.setdefault(key, []).append(tensor.num_bytes)
    table = Table(title=f"GGUF, architecture {prepared.architecture}")
    for column, justify in (("tensors", "left"), ("type", "left"), ("number", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("MB", justify="right")
    table.add_column("why")
    for (kind, type_name, reason), sizes in groups.items():
        table.add_row(kind, type_name, str(len(sizes)), f"{sum(sizes) / 1e6:.2f}", reason)
    table.add_section()
    table.add_row("total", "", str(len(prepared.tensors)), f"{prepared.num_bytes / 1e6:.2f}", "")
    return table


def run_verification(
    checkpoint: Path,
    exported: Path,
    text: Path | None,
    tokens: int,
    tolerance: float,
    json_output: Path | None,
) -> None:
    """Verifies, prints the findings as JSON and exits with 1 where they are beyond the tolerance."""
    from wf_converter.verify import verify

    ids = token_ids(checkpoint, text, tokens)
    with console.status(f"verifying with {len(ids)} tokens"):
        found = verify(checkpoint, exported, ids, tolerance)
    _report(found, json_output)
    if not found.passed:
        raise typer.Exit(1)


def _report(found: Verification, json_output: Path | None) -> None:
    if json_output is None:
        typer.echo(found.to_json())
    else:
        from wf_formats.atomic import atomic_write_text

        atomic_write_text(json_output, found.to_json() + "\n")
    verdict = "proved" if found.passed else "NOT PROVED: " + "; ".join(found.problems)
    console.print(
        f"{verdict} ({found.runtime}, {found.tokens} tokens): mean |delta log-prob| "
        f"{found.judged.mean_abs_delta:.5f} (allowed {found.tolerance}), top-1 agreement "
        f"{found.judged.top1_agreement:.3f}, scales {found.scales.relative_error:+.2%} +- "
        f"{found.scales.standard_error:.2%}; as trained: {found.as_trained.mean_abs_delta:.4f} and "
        f"{found.as_trained.top1_agreement:.3f}; perplexity {found.checkpoint_perplexity:.2f} -> "
        f"{found.export_perplexity:.2f}"
    )


def token_ids(checkpoint: Path, text: Path | None, tokens: int) -> list[int]:
    """The first `tokens` ids of a text in the checkpoint's tokenizer."""
    import transformers

    contents = text.read_text(encoding="utf-8") if text else _python_documentation()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    ids: list[int] = tokenizer(contents[: 16 * tokens])["input_ids"]
    return ids[:tokens]


def _python_documentation() -> str:
    from pydoc_data import topics

    return topics.topics["calls"] + topics.topics["class"] + topics.topics["import"]


def _run(command: Callable[..., None]) -> None:
    """Runs a typer command; a refusal is a message and exit code 2, not a traceback."""
    app = typer.Typer(add_completion=False)
    app.command()(command)
    try:
        app(prog_name=os.environ.get("WF_PROG"))
    except ExportError as error:
        console.print(f"[bold red]refused:[/] {error}", soft_wrap=True, highlight=False)
        raise SystemExit(2) from error


def main() -> None:
    """Entry of scripts/export.py."""
    _run(export)


def verify_main() -> None:
    """Entry of scripts/verify.py."""
    _run(verify_command)


if __name__ == "__main__":
    main()
