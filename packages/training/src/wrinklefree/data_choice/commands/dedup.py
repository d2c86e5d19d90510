"""`wf data dedup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wrinklefree.data_choice.commands.common import (
    DEFAULT_TEXT_COLUMN,
    DEFAULT_UNIT,
    AsJson,
    Files,
    Force,
    TextColumn,
    Unit,
    new_table,
    say,
    say_json,
    show,
)
from wrinklefree.data_choice.entries import as_override, as_source


def dedup(
    files: Files,
    output: Annotated[Path, typer.Option(help="Folder for what stays, and for the list of what does not.")],
    threshold: Annotated[
        float, typer.Option(help="Share of runs of words in common from which two documents are the same.")
    ] = 0.8,
    shingle_words: Annotated[int, typer.Option(help="Words of a run.")] = 5,
    text_column: TextColumn = DEFAULT_TEXT_COLUMN,
    text_unit: Unit = DEFAULT_UNIT,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Leave out near-duplicates, within files and across them; the first of several stays.

    Give the most valued files first. Each one that is left out is a line of dropped.jsonl, with the document
    that stands for it. Lines of JSON stay as they are; of parquet rows and .txt the text is written.

    Examples:

    wf data dedup books.jsonl.gz web.jsonl.gz --output data/unique

    wf data dedup books=text/b.jsonl.gz 'web=text/web-*.jsonl.gz' --threshold 0.9 --output data/unique
    """
    from data_handler.corpus.deduplicating import DROPPED_FILE, REPORT_FILE, deduplicate
    from data_handler.corpus.domains import Reading, parse_domains
    from data_handler.corpus.near_duplicates import DuplicateRule
    from wf_formats.atomic import atomic_folder
    from wf_formats.json_file import read_value
    from wf_formats.targets import check_apart
    from wrinklefree.data_choice.progress import reading_bar
    from wrinklefree.data_choice.targets import check_new_folder, folder_kind

    rule, reading = DuplicateRule(threshold, shingle_words), Reading(text_column, text_unit)
    domains, kind = parse_domains(files), folder_kind("a deduplicated corpus", REPORT_FILE)
    for domain in domains:
        for file in domain.files:
            check_apart(output, file)
    check_new_folder(output, kind, force)
    with atomic_folder(output, kind) as folder, reading_bar("comparing", domains) as advance:
        counts = deduplicate(domains, reading, rule, folder, advance)
    if as_json:
        say_json(read_value(output / REPORT_FILE) | {"output": str(output)})
        return
    table = new_table("domain", "documents", "stay", "dropped", "of its characters", "copies of")
    for count in counts:
        dropped = count.documents - count.kept_documents
        share = 1 - count.kept_characters / max(1, count.characters)
        twins = ", ".join(f"{name} {number:,}" for name, number in count.twins_in.items())
        row = (f"{count.documents:,}", f"{count.kept_documents:,}", f"{dropped:,}", f"{share:.2%}", twins)
        table.add_row(count.name, *row)
    show(table)
    say(f"{output}: what was dropped, and the document that stands for it, is in {DROPPED_FILE}")
    total = sum(count.kept_characters for count in counts)
    sources = [
        as_source(count.name, [output / count.file], count.kept_characters / total, text_column)
        for count in counts
        if count.file
    ]
    say(as_override(sources))
