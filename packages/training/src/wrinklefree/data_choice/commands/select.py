"""`wf data select`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrinklefree.data_choice.commands.common import (
    AsJson,
    Force,
    new_table,
    say,
    say_json,
    show,
)
from wrinklefree.data_choice.entries import as_override, as_source

if TYPE_CHECKING:
    from data_handler.corpus.score_file import Scored


def select(
    scores: Annotated[Path, typer.Argument(help="Folder that wf data score wrote.", show_default=False)],
    share: Annotated[float, typer.Option(help="Of the tokens that were scored, above 0 and at most 1.")],
    output: Annotated[Path, typer.Option(help="File for the documents: .jsonl or .jsonl.gz.")],
    by_domain: Annotated[
        bool, typer.Option("--by-domain", help="The share of each domain by itself, so that all stay in.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the documents of the highest scores, up to a share of the tokens, as text to train on.

    Their records are written as they stand in the files that were scored, the domains mixed evenly.

    Examples:

    wf data select outputs/scores --share 0.2 --output data/best.jsonl.gz

    wf data select outputs/scores --share 0.5 --by-domain --output data/better.jsonl.gz
    """
    from data_handler.corpus.choosing import check_share, choose, write_chosen
    from data_handler.corpus.score_file import files_of_scores, read_scores
    from data_handler.corpus.writing import check_suffix
    from wf_formats.atomic import atomic_file
    from wf_formats.targets import check_apart
    from wrinklefree.data_choice.targets import check_new_file

    check_share(share)
    check_suffix(output)
    check_new_file(output, force)
    found = read_scores(scores)
    read = [file for domain in found.domains for file in domain.files]
    for file in (*read, *files_of_scores(scores)):
        check_apart(output, file)
    chosen = choose(found.rows, share, by_domain=by_domain)
    with atomic_file(output) as file:
        write_chosen(chosen, found.domains, found.reading, file, is_packed=output.suffix == ".gz")
    counts = [_count(domain.name, found.rows, chosen) for domain in found.domains]
    total = _total(counts)
    if as_json:
        say_json(
            {"output": str(output), "share": share, "by_domain": by_domain, "total": total, "domains": counts}
        )
        return
    table = new_table("domain", "documents", "tokens", "chosen", "tokens chosen", "share")
    for count in [*counts, total]:
        tokens, taken = count["tokens"], count["chosen_tokens"]
        numbers = (count["documents"], tokens, count["chosen_documents"], taken)
        table.add_row(count["name"], *(f"{number:,}" for number in numbers), f"{taken / max(1, tokens):.1%}")
    show(table)
    source = as_source("chosen", [output], 1, found.reading.text_column)
    say(f"{output}: {total['chosen_documents']:,} documents, {total['chosen_tokens']:,} tokens")
    say(as_override([source]))


def _count(name: str, rows: Sequence[Scored], chosen: Sequence[Scored]) -> dict[str, Any]:
    own = [row for row in rows if row.domain == name]
    taken = [row for row in chosen if row.domain == name]
    return {
        "name": name,
        "documents": len(own),
        "tokens": sum(row.num_tokens for row in own),
        "chosen_documents": len(taken),
        "chosen_tokens": sum(row.num_tokens for row in taken),
    }


def _total(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = ("documents", "tokens", "chosen_documents", "chosen_tokens")
    return {"name": "all"} | {key: sum(count[key] for count in counts) for key in keys}
