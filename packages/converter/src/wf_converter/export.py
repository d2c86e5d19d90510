"""Command line: checkpoint folder -> GGUF file or Hugging Face folder, and the proof of either."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from wf_converter.command import console, run
from wf_converter.proof_limits import DEFAULT_TOKENS, TOLERANCE_HELP
from wf_converter.prove import Proof
from wf_converter.publish import (
    Baseline,
    CommitMessage,
    DryRun,
    License,
    OverwriteCard,
    Private,
    Reports,
    Revision,
    read_wishes,
)
from wf_converter.publish_defaults import COMMIT_MESSAGE, REVISION
from wf_formats.errors import RequestError
from wf_formats.gguf.codecs import EMBEDDING_TYPES, EXPORT_TYPES
from wf_formats.printable import printable
from wf_formats.targets import EXPORT, check_apart, check_file, check_folder, check_way

if TYPE_CHECKING:
    from wf_converter.card import Wishes
    from wf_converter.hf_export import HfExport
    from wf_converter.publication import Publication

EXPORT_TYPE_NAMES = ", ".join(kind.label for kind in EXPORT_TYPES)
EMBEDDING_TYPE_NAMES = " or ".join(EMBEDDING_TYPES)


class Format(StrEnum):
    """Target of an export."""

    GGUF = "gguf"
    HF = "hf"
    COMPRESSED = "compressed-tensors"
    PHASES = "phases"


ONLY_FOR: dict[tuple[str, ...], tuple[str, ...]] = {
    ("--format gguf",): ("type", "embeddings", "adapter"),
    ("--format hf",): ("linear_class",),
    ("--format hf", "--format compressed-tensors", "--format phases"): ("dtype",),
    ("--verify",): ("text", "tokens", "tolerance", "json_output"),
    ("--push-to-hub",): ("private", "revision", "commit_message", "overwrite_card", "dry_run"),
}
"""What options belong to, one of these; without it they would be ignored, so they are refused."""


def export(
    ctx: typer.Context,
    checkpoint: Annotated[Path, typer.Option(help="Converted checkpoint folder.")],
    output: Annotated[Path, typer.Option(help="GGUF file or folder to write.")],
    format: Annotated[
        Format,
        typer.Option(
            help="gguf (llama.cpp), hf (transformers), compressed-tensors (vLLM, no SubLN) or phases "
            "(complex weights, native engine)."
        ),
    ] = Format.GGUF,
    type: Annotated[
        str, typer.Option(help=f"gguf: auto or {EXPORT_TYPE_NAMES} for quantized matrices.")
    ] = "auto",
    embeddings: Annotated[
        str, typer.Option(help=f"gguf: {EMBEDDING_TYPE_NAMES}, embeddings and head.")
    ] = "f16",
    linear_class: Annotated[
        str, typer.Option(help="hf, SubLN models: bitlinear or autobitlinear.")
    ] = "bitlinear",
    dtype: Annotated[
        str, typer.Option(help="hf, compressed-tensors, phases: float32 or bfloat16 of the other tensors.")
    ] = "float32",
    license: License = None,
    adapter: Annotated[
        Path | None,
        typer.Option(help="gguf: file for low-rank corrections (a LoRA adapter), if the model has some."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace an earlier export (a folder) or the file of that name (gguf).")
    ] = False,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Prove the export when written; --push-to-hub does unless told not to.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Text for --verify; by default Python's documentation."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of the text that --verify compares.")] = DEFAULT_TOKENS,
    tolerance: Annotated[float | None, typer.Option(help=TOLERANCE_HELP)] = None,
    json_output: Annotated[
        Path | None, typer.Option("--json", help="Write the findings of --verify there.")
    ] = None,
    report: Reports = None,
    baseline: Baseline = None,
    push_to_hub: Annotated[
        str | None, typer.Option(help="ORG/NAME: publish it there, as wf publish does.")
    ] = None,
    private: Private = False,
    revision: Revision = REVISION,
    commit_message: CommitMessage = COMMIT_MESSAGE,
    overwrite_card: OverwriteCard = False,
    dry_run: DryRun = False,
) -> None:
    """Exports a checkpoint, with a model card; what would lose information is refused by the tensor's name.

    Examples:

      wf export --checkpoint runs/x/stage2/final --output x.gguf --embeddings q8_0 --verify

      wf export --checkpoint runs/x/stage2/final --format hf --output x-bitnet

      wf export --checkpoint runs/x/stage2/final --format compressed-tensors --output x-w2a8 --dtype bfloat16

      wf export --checkpoint runs/x/stage2/final --output x.gguf --push-to-hub my-name/x
    """
    proves = push_to_hub is not None if verify is None else verify
    chosen = {"--verify": proves, "--push-to-hub": push_to_hub is not None}
    _refuse_ignored(ctx, {f"--format {format}"} | {option for option, is_it in chosen.items() if is_it})
    _check_target("--output", output, checkpoint, format, overwrite)
    if adapter is not None:
        _check_target("--adapter", adapter, checkpoint, Format.GGUF, overwrite)
        check_apart(adapter, output)
    _check_card(output, format, overwrite)
    wishes, publication = read_wishes(license, report, baseline), None
    if push_to_hub is not None:
        destination = (push_to_hub, private, revision, commit_message, overwrite_card)
        publication = _prepare_publication(destination, dry_run, proves, checkpoint, wishes)
        if adapter is not None and adapter.resolve().parent != output.resolve().parent:
            raise RequestError(f"--adapter {adapter} has to lie beside {output} to be published with it")
    proof = None
    if proves:
        proof = Proof.prepare(checkpoint, text, tokens, tolerance, json_output, output, adapter)
    if format is Format.GGUF:
        _export_gguf(checkpoint, output, type, embeddings, license, adapter)
    else:
        _export_folder(checkpoint, output, format, linear_class, dtype)
    written = str(output) if adapter is None else f"{output} and {adapter}"
    console.print(f"wrote {written}", soft_wrap=True)
    _warn_of_template(checkpoint)
    _finish(checkpoint, output, adapter, wishes, proof, publication)


def _prepare_publication(
    destination: tuple[str, bool, str, str, bool],
    dry_run: bool,
    proves: bool,
    checkpoint: Path,
    wishes: Wishes,
) -> Publication:
    """Raises: UserError for what would be refused when all is made."""
    from wf_converter.checkpoint import open_checkpoint
    from wf_converter.hub import Destination
    from wf_converter.publication import Publication

    publication = Publication(Destination(*destination), dry_run, needs_proof=proves)
    publication.check_token()
    publication.check_license(open_checkpoint(checkpoint), wishes)
    return publication


def _finish(
    checkpoint: Path,
    output: Path,
    adapter: Path | None,
    wishes: Wishes,
    proof: Proof | None,
    publication: Publication | None,
) -> None:
    """The card, the proof in it, and the way to the hub."""
    from wf_converter.card import Card, card_path, make_record
    from wf_converter.checkpoint import open_checkpoint
    from wf_converter.measured import proof_of

    asks_hub = publication is not None and not publication.dry_run
    record = wishes.applied(make_record(open_checkpoint(checkpoint), output, adapter, ask_hub=asks_hub))
    card = Card.of(record, card_path(output))
    card.write()
    if proof is not None:
        card = Card.of(replace(record, proof=proof_of(proof.run(output, adapter))), card.path)
        card.write()
    console.print(f"wrote {card.path}", soft_wrap=True)
    if publication is not None:
        publication.send(output, Card.of(publication.addressed(card.record), card.path))


def _check_card(output: Path, format: Format, overwrite: bool) -> None:
    """Raises: RequestError where the card of a GGUF file would replace something."""
    from wf_converter.card import check_card, gguf_card_path

    if format is not Format.GGUF:
        return  # the card is inside the folder, which has been checked
    path = gguf_card_path(output)
    check_card(path)
    if path.exists() and not overwrite:
        raise RequestError(f"the card {path} exists; pass --overwrite, or choose another --output")


def _warn_of_template(checkpoint: Path) -> None:
    """Other runtimes may take what the native engine does not."""
    from wf_formats.tokenizer.support import template_fault

    if (reason := template_fault(checkpoint)) is not None:
        console.print(f"warning: wf serve will not take this: {printable(reason)}", soft_wrap=True)


def _refuse_ignored(ctx: typer.Context, chosen: set[str]) -> None:
    """Raises: RequestError for an option that was given and would have no effect."""
    names = {str(option.name): option.opts[0] for option in ctx.command.params}
    for owners, options in ONLY_FOR.items():
        given = [names[option] for option in options if _is_given(ctx, option)]
        if given and chosen.isdisjoint(owners):
            owner = " or ".join(owners)
            raise RequestError(f"{given[0]} belongs to {owner}; leave it out, or add {owner}")


def _is_given(ctx: typer.Context, option: str) -> bool:
    source: Any = ctx.get_parameter_source(option)
    return source is not None and source.name != "DEFAULT"


def _check_target(option: str, output: Path, checkpoint: Path, format: Format, overwrite: bool) -> None:
    check_apart(output, checkpoint)
    check_way(output)
    if format is Format.GGUF:
        check_file(output)
    else:
        check_folder(output, EXPORT)
    if output.exists() and not overwrite:
        raise RequestError(f"{option} {output} exists; pass --overwrite, or choose another path")


def _export_gguf(
    checkpoint: Path,
    output: Path,
    wanted: str,
    embeddings: str,
    license_name: str | None,
    adapter: Path | None,
) -> None:
    from wf_converter.gguf_export import prepare_gguf
    from wf_converter.gguf_table import gguf_table

    prepared = prepare_gguf(checkpoint, wanted, embeddings, license_name)
    prepared.check_adapter(adapter)
    console.print(gguf_table(prepared))
    if rank := prepared.checkpoint.low_rank:
        bits = prepared.correction_bits_per_weight
        console.print(
            f"low-rank corrections of rank {rank}: {bits:.2f} bits a weight more, in {adapter}",
            soft_wrap=True,
        )
    with Progress(console=console) as progress:
        task = progress.add_task("writing", total=prepared.num_bytes)
        prepared.write(output, lambda tensor: progress.advance(task, tensor.num_bytes), adapter)


def _export_folder(checkpoint: Path, output: Path, format: Format, linear_class: str, dtype: str) -> None:
    from wf_converter.hf_export import prepare_compressed, prepare_hf, prepare_phases

    prepared: HfExport
    if format is Format.COMPRESSED:
        prepared = prepare_compressed(checkpoint, dtype)
    elif format is Format.PHASES:
        prepared = prepare_phases(checkpoint, dtype)
    else:
        prepared = prepare_hf(checkpoint, linear_class, dtype)
    console.print(f"layout {prepared.layout}, {len(prepared.names)} tensors, others {dtype}")
    with Progress(console=console) as progress:
        task = progress.add_task("writing", total=len(prepared.names))
        prepared.write(output, lambda name: progress.advance(task))


def main() -> None:
    """Entry of scripts/export.py."""
    run(export, "python -m wf_converter export")


if __name__ == "__main__":
    main()
