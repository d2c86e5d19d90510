"""An export on its way to the hub: what has to be known of it, and what is sent.

    asked before anything is made   the repository's name, the branch, a token that the hub takes
    asked before anything is sent   a licence, a proof (unless it was waived), names that fit a repository
    sent                            the export's files, README.md, SHA256SUMS

The card beside the export is written first, so that what was sent stands there too.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wf_converter.base_model import front_matter_of, origin_of
from wf_converter.card import Card, Wishes, check_files, is_as_written, local_files
from wf_converter.card_record import CardRecord
from wf_converter.command import console
from wf_converter.hub import (
    CHECKSUMS_FILE,
    Destination,
    PublishError,
    PublishRefusedError,
    check_token,
    publish,
)
from wf_converter.publish_defaults import COMMIT_MESSAGE, REVISION
from wf_formats.errors import RequestError
from wf_formats.file_names import CARD_FILE
from wf_formats.printable import legible

if TYPE_CHECKING:
    from wf_converter.checkpoint import ConvertedCheckpoint

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")


@dataclass(frozen=True)
class Publication:
    """Attributes: dry_run shows and sends nothing; needs_proof refuses an export without a proof."""

    destination: Destination
    dry_run: bool
    needs_proof: bool

    def check_token(self) -> None:
        """Raises: UserError where nothing could be sent in the end."""
        if not self.dry_run:
            check_token()

    def check_license(self, checkpoint: ConvertedCheckpoint, wishes: Wishes) -> None:
        """Raises: RequestError before the export of a checkpoint whose licence nobody tells."""
        known = wishes.license or checkpoint.license
        if not known and origin_of(checkpoint.origin, ask_hub=not self.dry_run).license is None:
            raise _without_license(checkpoint.folder)

    def card(self, card: Card, wishes: Wishes) -> Card:
        """A card that is read back, with what was measured meanwhile and the commands to fetch it.

        Raises: RequestError for one that was changed by hand and is to be changed again.
        """
        if card.is_changed:
            if not wishes.are_none:
                raise RequestError(
                    f"{card.path} was changed by hand, or written by another version: put figures and "
                    "licence in by hand too, or write it anew with --checkpoint FOLDER"
                )
            return card
        return Card.of(wishes.applied(self.addressed(card.record)), card.path)

    def addressed(self, record: CardRecord) -> CardRecord:
        """The record with the repository that its commands fetch from."""
        return replace(record, repository=self.destination.repository)

    def send(self, export: Path, card: Card) -> None:
        """Shows the card and the files, or writes the one and sends all.

        Raises:
            RequestError: something is missing that a published model has.
            PublishError, PublishRefusedError: it did not arrive; the message says how to send it again.
        """
        self._check(export, card)
        check_files(card.record, export)
        files = local_files(card.record, export)
        if self.dry_run:
            self._show(card)
            return
        card.write()
        repository = self.destination.repository
        try:
            done = publish(self.destination, files, card.text, checksums(card.record), is_as_written)
        except (PublishError, PublishRefusedError) as error:
            again = shlex.join(["wf", "publish", str(export), repository, *self._flags()])
            raise type(error)(f"{error}; {export} stays as it is, `{again}` sends it") from error
        console.print(f"{'published' if done.is_new else 'unchanged:'} {done.address}", soft_wrap=True)

    def _flags(self) -> list[str]:
        """What has to be said again to send the same once more."""
        asked = self.destination
        flags = {"--no-verify": not self.needs_proof, "--private": asked.private}
        flags |= {"--overwrite-card": asked.overwrite_card}
        said = [flag for flag, is_said in flags.items() if is_said]
        if asked.revision != REVISION:
            said += ["--revision", asked.revision]
        if asked.commit_message != COMMIT_MESSAGE:
            said += ["--commit-message", asked.commit_message]
        return said

    def _check(self, export: Path, card: Card) -> None:
        """Raises: RequestError for what a published model has to have, and this has not."""
        if not front_matter_of(card.text).get("license"):
            raise _without_license(export)
        if self.needs_proof and card.record.proof is None:
            raise RequestError(
                f"{export} has not been proved: run wf verify --checkpoint FOLDER --export {export} --json "
                "proof.json and give --report proof.json, or pass --no-verify"
            )
        for file in card.record.files:
            if not _NAME.fullmatch(file.name) or file.name in (CARD_FILE, CHECKSUMS_FILE):
                raise RequestError(
                    f"{file.name!r:.80} is no name for a file of a repository: export it under one of "
                    f"letters, digits, '.', '_', '+' and '-', not {CARD_FILE} or {CHECKSUMS_FILE}"
                )

    def _show(self, card: Card) -> None:
        typer.echo(legible(card.text))
        sizes = {file.name: file.bytes for file in card.record.files}
        texts = {CARD_FILE: card.text, CHECKSUMS_FILE: checksums(card.record)}
        for name, size in (sizes | {name: len(text.encode()) for name, text in texts.items()}).items():
            typer.echo(f"{size:>15,}  {name}")
        console.print(f"nothing was sent to {self.destination.repository} (--dry-run)", soft_wrap=True)


def checksums(record: CardRecord) -> str:
    """As `sha256sum -c` reads them."""
    return "".join(f"{file.sha256}  {file.name}\n" for file in record.files)


def _without_license(model: Path) -> RequestError:
    return RequestError(
        f"no record tells the licence of {model}: give it with --license, as apache-2.0 or mit"
    )
