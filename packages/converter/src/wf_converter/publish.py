"""Command line: an export that is there, with its card, to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wf_converter.command import run
from wf_converter.publish_defaults import COMMIT_MESSAGE, REVISION
from wf_formats.errors import RequestError

if TYPE_CHECKING:
    from wf_converter.card import Card, Wishes

License = Annotated[
    str | None,
    typer.Option(help="Identifier of the model's licence, as apache-2.0; by default the base model's."),
]
Reports = Annotated[
    list[Path] | None,
    typer.Option(
        help="Figures for the card: JSON of wf eval --output, of wf verify --json, or a quickstart's "
        "report.json; repeat for more."
    ),
]
Baseline = Annotated[
    Path | None, typer.Option(help="JSON of wf eval --output for the full-precision model, to stand beside.")
]
Private = Annotated[bool, typer.Option("--private", help="The repository has to be private.")]
Revision = Annotated[str, typer.Option(help="Branch of the repository, made where it is missing.")]
CommitMessage = Annotated[str, typer.Option(help="First line of the commit.")]
OverwriteCard = Annotated[
    bool,
    typer.Option("--overwrite-card", help="Replace a README.md there that was written or changed by hand."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the card and the files; send nothing.")]


def publish(
    export: Annotated[Path, typer.Argument(help="GGUF file or folder that wf export wrote.")],
    repository: Annotated[str, typer.Argument(help="ORG/NAME on the hub; made where it is missing.")],
    license: License = None,
    report: Reports = None,
    baseline: Baseline = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Write the card anew, from the checkpoint of the export.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="With --checkpoint: the GGUF file of its low-rank corrections.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Publish without a proof.")] = False,
    private: Private = False,
    revision: Revision = REVISION,
    commit_message: CommitMessage = COMMIT_MESSAGE,
    overwrite_card: OverwriteCard = False,
    dry_run: DryRun = False,
) -> None:
    """Publish an export on the Hugging Face hub, with the card beside it, in one commit.

    Nothing is committed where the repository has all of it as it is.

    The token is HF_TOKEN, or what `hf auth login` stored.

    Examples:

      wf publish model.gguf my-name/my-model --dry-run

      wf publish model.gguf my-name/my-model --report eval.json --baseline full-precision.json
    """
    from wf_converter.hub import Destination
    from wf_converter.publication import Publication

    destination = Destination(repository, private, revision, commit_message, overwrite_card)
    publication = Publication(destination, dry_run, needs_proof=not no_verify)
    wishes = read_wishes(license, report, baseline)
    publication.check_token()
    card = publication.card(_card(export, checkpoint, adapter, ask_hub=not dry_run), wishes)
    publication.send(export, card)


def read_wishes(license: str | None, reports: list[Path] | None, baseline: Path | None) -> Wishes:
    """Raises: RequestError for a file that is no report, or a licence that is no identifier."""
    from wf_converter.card import Wishes
    from wf_converter.measured import read_report

    read = [read_report(path) for path in reports or []]
    return Wishes(license, read, None if baseline is None else read_report(baseline))


def _card(export: Path, checkpoint: Path | None, adapter: Path | None, ask_hub: bool) -> Card:
    from wf_converter.card import Card, card_path, check_export, make_record, read_card

    check_export(export)
    if checkpoint is None:
        if adapter is not None:
            raise RequestError(
                f"--adapter {adapter} belongs to --checkpoint; leave it out, or add --checkpoint"
            )
        return read_card(export)
    from wf_converter.checkpoint import open_checkpoint

    record = make_record(open_checkpoint(checkpoint), export, adapter, ask_hub=ask_hub)
    return Card.of(record, card_path(export))


def main() -> None:
    """Entry of `python -m wf_converter publish`."""
    run(publish, "python -m wf_converter publish")


if __name__ == "__main__":
    main()
