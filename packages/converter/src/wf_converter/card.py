"""The model card of an export: made beside it, read back, and given what was measured meanwhile.

    folder         FOLDER/README.md
    model.gguf     model.card.md beside it (a README.md there may be somebody's own)

The record comes from the checkpoint, the stages' records beside it, the exported files and reports of
measurements; see card_record.py for what it holds. Reading a card back and adding to it needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import TypeAdapter, ValidationError

from wf_converter.base_model import front_matter_of, origin_of
from wf_converter.card_record import GGUF, HF, CardRecord, FileEntry, License, Sizes
from wf_converter.card_text import card_of
from wf_converter.errors import ExportError
from wf_converter.history import history_of
from wf_converter.inspect import BLOCK_MATRICES, EMBEDDINGS, TensorGroup, inspect_model
from wf_converter.measured import Report, with_baseline, with_report
from wf_formats.atomic import atomic_write_text
from wf_formats.digests import file_sha256, model_sha256
from wf_formats.errors import RequestError
from wf_formats.file_names import CARD_FILE, CHAT_TEMPLATE_FILE, META_FILE, TOKENIZER_CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.model_card import MAX_CARD_BYTES, RECORD_KEY, is_own_card
from wf_formats.printable import printable
from wf_formats.targets import EXPORT, check_file

if TYPE_CHECKING:
    from wf_converter.checkpoint import ConvertedCheckpoint

SUFFIX = ".card.md"
_LICENSE_IDS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-+")


@dataclass(frozen=True)
class Wishes:
    """What a card is given beyond what is recorded."""

    license: str | None = None
    reports: Sequence[Report] = ()
    baseline: Report | None = None

    def __post_init__(self) -> None:
        if self.license is not None and not (self.license and _LICENSE_IDS.issuperset(self.license.lower())):
            raise RequestError(
                f"--license {self.license!r:.60} is no identifier of a licence; give one, as apache-2.0"
            )

    def applied(self, record: CardRecord) -> CardRecord:
        """Raises: RequestError for figures of another model."""
        if self.license is not None:
            record = replace(record, license=License(self.license.lower()))
        for report in self.reports:
            record = with_report(record, report)
        return record if self.baseline is None else with_baseline(record, self.baseline)

    @property
    def are_none(self) -> bool:
        return self.license is None and not self.reports and self.baseline is None


def card_path(export: Path) -> Path:
    """Where the card of an export is."""
    return export / CARD_FILE if export.is_dir() else gguf_card_path(export)


def gguf_card_path(file: Path) -> Path:
    """Where that of a GGUF file is, whether the file is there or not."""
    return file.with_name(file.name.removesuffix(".gguf") + SUFFIX)


def check_card(path: Path) -> None:
    """Raises: RequestError where something else than a card of ours is there."""
    check_file(path)
    if path.exists() and not is_own_card(path):
        raise RequestError(f"{path} is not replaced: it is no card that WrinkleFree wrote; move it away")


def make_record(
    checkpoint: ConvertedCheckpoint, export: Path, adapter: Path | None = None, *, ask_hub: bool = False
) -> CardRecord:
    """Everything that is known of an export of a checkpoint.

    Args:
        ask_hub: whether the base model's card is fetched from the hub where the cache lacks it.

    Raises:
        ExportError: the export is another checkpoint's.
    """
    if _source(export) != checkpoint.fingerprint:
        raise ExportError(f"{export} is no export of {checkpoint.folder} as it is now: export it again")
    inspected, files = inspect_model(export), _files(export, adapter)
    facts = inspected.facts
    history, origin = history_of(checkpoint.folder), origin_of(checkpoint.origin, ask_hub)
    return CardRecord(
        name=checkpoint.name,
        format=HF if export.is_dir() else GGUF,
        layout=str(facts["quantization"] if export.is_dir() else facts["architecture"]),
        model_sha256=model_sha256(export),
        checkpoint_sha256=checkpoint.fingerprint,
        scheme=checkpoint.scheme,
        sub_norm=checkpoint.sub_norm,
        files=files,
        sizes=_sizes(inspected.tensors, sum(file.bytes for file in files)),
        low_rank=checkpoint.low_rank,
        block_size=None if checkpoint.diffusion is None else checkpoint.diffusion.block_size,
        context_tokens=facts["context tokens"],
        has_chat_template=_has_template(export, facts),
        base=origin.base,
        license=License(checkpoint.license) if checkpoint.license else origin.license,
        languages=origin.languages,
        datasets=history.datasets,
        stages=history.stages,
        has_all_stages=history.is_whole,
    )


def _files(export: Path, adapter: Path | None) -> list[FileEntry]:
    """Everything that belongs to an export, but its card."""
    if not export.is_dir():
        return [_entry(path.name, path) for path in (export, adapter) if path is not None]
    names = [META_FILE, *read_json(export / META_FILE)["export"]["files"]]
    return [_entry(name, export / name) for name in sorted(names)]


def _entry(name: str, path: Path) -> FileEntry:
    return FileEntry(name, path.stat().st_size, file_sha256(path))


def _has_template(export: Path, facts: dict[str, Any]) -> bool:
    if not export.is_dir():
        return bool(facts["chat template"] == "yes")
    config = export / TOKENIZER_CONFIG_FILE
    return (export / CHAT_TEMPLATE_FILE).is_file() or (
        config.is_file() and "chat_template" in read_json(config)
    )


def _source(export: Path) -> str | None:
    """The fingerprint of the checkpoint that an export says it was made from."""
    if export.is_dir():
        found: Any = read_json(export / META_FILE).get("export")
        return found.get("source_sha256") if isinstance(found, dict) else None
    from wf_formats.gguf import open_gguf
    from wf_formats.models.gguf_adapter import SOURCE_KEY

    key = open_gguf(export).keys.get(SOURCE_KEY)
    return key if isinstance(key, str) else None


def _sizes(groups: Sequence[TensorGroup], total_bytes: int) -> Sizes:
    embeddings = [group for group in groups if group.role == EMBEDDINGS]
    matrices = [group for group in groups if group.role == BLOCK_MATRICES]
    return Sizes(
        total_bytes=total_bytes,
        embedding_bytes=sum(group.num_bytes for group in embeddings),
        num_weights=sum(group.num_weights for group in matrices),
        num_embedding_weights=sum(group.num_weights for group in embeddings),
        types=[group.type for group in matrices],
    )


@dataclass(frozen=True)
class Card:
    """Of an export: where it is, its text, and the record in it."""

    path: Path
    text: str
    record: CardRecord

    @classmethod
    def of(cls, record: CardRecord, path: Path) -> Self:
        """The card that a record makes."""
        return cls(path, card_of(record), record)

    def write(self) -> None:
        """Writes it, in place of an earlier one of ours. Raises: RequestError where something else is."""
        check_card(self.path)
        atomic_write_text(self.path, self.text)

    @property
    def is_changed(self) -> bool:
        """By hand, or another version wrote it."""
        return card_of(self.record) != self.text


def check_export(export: Path) -> None:
    """Raises: RequestError for a path where no export is; names the GGUF files of a folder."""
    if not export.exists():
        raise RequestError(f"there is no file or folder {export}; check the path")
    if not export.is_dir() or EXPORT.known_files(export):
        return
    if files := sorted(path for path in export.glob("*.gguf") if path.is_file()):
        raise RequestError(f"{export} is a folder; give its file, {' or '.join(map(str, files))}")
    raise RequestError(f"{export} is no export: make one of a checkpoint with wf export")


def read_card(export: Path) -> Card:
    """The card of an export, which has to be of the files as they are now.

    Raises:
        RequestError: there is no card, none of ours, or one of other files; the message says what to do.
    """
    check_export(export)
    path = card_path(export)
    again = f"write it anew with --checkpoint FOLDER, the checkpoint that {export} was made from"
    if not path.is_file():
        raise RequestError(f"{export} has no card ({path} is missing): {again}")
    if path.stat().st_size > MAX_CARD_BYTES:
        raise RequestError(f"{path} has more than {MAX_CARD_BYTES} bytes: {again}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 ({error.reason}): {again}") from error
    try:
        record = _record_in(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (RECORD_KEY, *first["loc"])))
        raise RequestError(f"{path} is damaged: {where}: {printable(first['msg'])}; {again}") from error
    check_files(record, export)
    return Card(path, text, record)


def is_as_written(text: str) -> bool:
    """Whether a card, of whatever model, is as this version writes it: nobody has changed it by hand."""
    try:
        return card_of(_record_in(text)) == text
    except ValidationError:
        return False


def _record_in(text: str) -> CardRecord:
    return TypeAdapter(CardRecord).validate_python(front_matter_of(text).get(RECORD_KEY))


def local_files(record: CardRecord, export: Path) -> dict[str, Path]:
    """Files of a record by their names in a repository."""
    folder = export if export.is_dir() else export.parent
    return {file.name: folder / file.name for file in record.files}


def check_files(record: CardRecord, export: Path) -> None:
    """Raises: RequestError for a file that is missing, or not the one that the card is of."""
    for file, path in zip(record.files, local_files(record, export).values(), strict=True):
        if not path.is_file():
            raise RequestError(f"{path} is missing, which the card of {export} names; put it there")
        if path.stat().st_size != file.bytes or file_sha256(path) != file.sha256:
            raise RequestError(
                f"{path} has changed since the card of {export} was written: export it again, or write the "
                "card anew with --checkpoint FOLDER"
            )
