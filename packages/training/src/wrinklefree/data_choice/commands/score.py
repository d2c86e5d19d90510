"""`wf data score`."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

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

_DEFAULT_MINUTES = 10.0
_MOST_TOKENS = 2048


class EstimatorName(StrEnum):
    """Of data_handler.influence."""

    cosine = "cosine"
    datainf = "datainf"
    tracin = "tracin"


class By(StrEnum):
    """What is ranked."""

    document = "document"
    domain = "domain"


def score(
    files: Files,
    probe: Annotated[
        str, typer.Option(metavar="[NAME=]FILE", help="Text that stands for what the model shall be good at.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for scores.jsonl, scores.json and scores.png.")],
    model: Annotated[
        str, typer.Option(help="packaged (SmolLM2-135M-Instruct), or a folder with a model, ternary or not.")
    ] = "packaged",
    estimator: Annotated[
        EstimatorName, typer.Option(help="cosine leaves out the gradients' lengths; the others count them.")
    ] = EstimatorName.cosine,
    by: Annotated[
        By, typer.Option(help="Rank documents, or domains (names) by their mean gradient.")
    ] = By.document,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time of the whole; what it allows is a random sample.", show_default=f"{_DEFAULT_MINUTES:g}"
        ),
    ] = None,
    documents: Annotated[
        int | None, typer.Option(min=1, help="Instead of --minutes: how many documents.")
    ] = None,
    tokens: Annotated[
        int,
        typer.Option(min=8, max=_MOST_TOKENS, help="The first ones of each document, which stand for it."),
    ] = 256,
    probe_documents: Annotated[int, typer.Option(min=1, help="A random sample of the probe.")] = 32,
    blocks: Annotated[
        int, typer.Option(min=1, help="Gradients of the matrices of the last ones; each costs time.")
    ] = 4,
    sketch: Annotated[int, typer.Option(min=64, max=1 << 20, help="Numbers that a gradient becomes.")] = 8192,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples and the sketch.")] = 0,
    text_column: TextColumn = DEFAULT_TEXT_COLUMN,
    text_unit: Unit = DEFAULT_UNIT,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Score documents by the influence that training on them has on a probe; higher helps.

    Documents of the probe are left out by name. Stopped, the same command goes on.

    Examples:

    wf data score books.jsonl.gz web.jsonl.gz --probe exam=exam.jsonl --output outputs/scores

    wf data score 'text/*.jsonl.gz' --by domain --probe exam=exam.jsonl --minutes 5 --output outputs/domains
    """
    begun_s = time.monotonic()
    from data_handler.corpus.domains import Reading, parse_domains, parse_one
    from wf_formats.errors import RequestError

    domains, probe_domain = parse_domains(files), parse_one(probe, "probe")
    if minutes is not None and documents is not None:
        raise RequestError("--minutes and --documents both say how long it takes: give one of them")
    if documents is None and minutes is None:
        minutes = _DEFAULT_MINUTES
    from wrinklefree.data_choice.scoring import ScoreRequest, run_score

    request = ScoreRequest(
        model,
        domains,
        probe_domain,
        Reading(text_column, text_unit),
        estimator.value,
        by.value,
        minutes,
        documents,
        tokens,
        probe_documents,
        sketch,
        blocks,
        seed,
    )
    report = run_score(request, output, begun_s, force)
    if as_json:
        say_json(report | {"output": str(output)})
    else:
        _show(report, output)


def _show(report: dict[str, Any], output: Path) -> None:
    from wf_formats.printable import printable

    is_ranked = "score" in report["domains"][0]
    columns = (
        "domain",
        *(["score"] if is_ranked else []),
        "mean of documents",
        "quartiles",
        "scored",
        "of",
        "tokens",
    )
    table = new_table(*columns)
    for entry in report["domains"]:
        mean, error, quartiles = entry["mean"], entry["standard_error"], entry["quartiles"]
        told = "not scored" if mean is None else f"{mean:.4g}" + ("" if error is None else f" ± {error:.1g}")
        between = "" if quartiles is None else " ".join(f"{value:.3g}" for value in quartiles)
        counts = (f"{entry['scored']:,}", f"{entry['documents']:,}", f"{entry['tokens']:,}")
        table.add_row(
            entry["name"], *([f"{entry['score']:.4g}"] if is_ranked else []), told, between, *counts
        )
    show(table)
    if left_out := report["left_out"]:
        say(f"left out, being in the probe: {len(left_out)} documents, the first {printable(left_out[0])}")
    say(
        f"{output}: {report['scored']:,} scores by {report['probe_scored']} documents of the probe; higher "
        "helps it"
    )
    if not is_ranked:
        say(f"next: wf data select {output} --share 0.2 --output FILE.jsonl.gz")
