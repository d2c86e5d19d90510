"""`wf data mix`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrinklefree.data_choice.commands.common import (
    DEFAULT_TEXT_COLUMN,
    DEFAULT_UNIT,
    AsJson,
    Force,
    TextColumn,
    Unit,
    new_table,
    say,
    say_json,
    show,
)
from wrinklefree.data_choice.entries import as_override, as_source, as_value

if TYPE_CHECKING:
    from wrinklefree.data_choice.trials import Plan

_DEFAULT_MINUTES, _DEFAULT_STEPS = 10.0, 60


def mix(
    source: Annotated[
        list[str], typer.Option(metavar="NAME=FILE", help="A source of the mixture; two or more.")
    ],
    probe: Annotated[str, typer.Option(help="Text whose loss is to be small; none of it in a source.")],
    output: Annotated[Path, typer.Option(help="Folder for the trials and the result.")] = Path("outputs/mix"),
    minutes: Annotated[
        float | None, typer.Option(help="Time of the whole.", show_default=f"{_DEFAULT_MINUTES:g}")
    ] = None,
    mixtures: Annotated[
        int | None, typer.Option(help="Instead of --minutes: how many mixtures are tried.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of each small model's training.")] = _DEFAULT_STEPS,
    model: Annotated[
        str, typer.Option(help="Whose tokenizer the small models have: packaged, or a folder.")
    ] = "packaged",
    seed: Annotated[int, typer.Option(min=0, help="Of the mixtures that are tried.")] = 0,
    text_column: TextColumn = DEFAULT_TEXT_COLUMN,
    text_unit: Unit = DEFAULT_UNIT,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Propose weights of a mixture from many small models, each trained on a mixture of its own.

    The equal mixture and the proposed one are then compared in several orders of the data; what is not better
    than equal weights is said to be so. Stopped, the same command goes on.

    Examples:

    wf data mix --source books=books.jsonl.gz --source web=web.jsonl.gz --probe validation.jsonl.gz

    wf data mix --source a=a.jsonl --source b=b.jsonl --probe p.jsonl --minutes 30 --output outputs/mix30
    """
    begun_s = time.monotonic()
    from data_handler.corpus.domains import Reading, parse_domains, parse_one

    domains, probe_domain = parse_domains(source), parse_one(probe, "probe")
    plan = _plan(minutes, mixtures, len(domains))
    from wrinklefree.data_choice.mixing import MixRequest, run_mix

    request = MixRequest(domains, probe_domain, Reading(text_column, text_unit), steps, model, seed)
    result = run_mix(request, plan, output, begun_s, force)
    weights = result["weights"]
    sources = [
        as_source(d.name, d.files, weights[d.name], text_column, text_unit)
        for d in domains
        if weights[d.name] > 0
    ]
    if as_json:
        say_json(result | {"override": as_value(sources)})
        return
    _show(result)
    say(as_override(sources))


def _plan(minutes: float | None, mixtures: int | None, num_sources: int) -> Plan:
    """Raises: RequestError."""
    from wf_formats.errors import RequestError
    from wrinklefree.data_choice.trials import Plan, least_mixtures
    from wrinklefree.data_choice.working import check_minutes

    if num_sources < 2:
        raise RequestError("one --source alone is no mixture: give two or more")
    if minutes is not None and mixtures is not None:
        raise RequestError("--minutes and --mixtures both say how long it takes: give one of them")
    if mixtures is not None:
        if mixtures < (least := least_mixtures(num_sources)):
            raise RequestError(
                f"--mixtures {mixtures} are too few for {num_sources} sources: give {least} or more"
            )
        return Plan(None, mixtures)
    minutes = _DEFAULT_MINUTES if minutes is None else minutes
    check_minutes(minutes)
    return Plan(minutes, None)


def _show(result: dict[str, Any]) -> None:
    table = new_table("source", "weight", "proposed", "characters", "once through after")
    for name, weight in result["weights"].items():
        characters = result["characters"][name]
        after = f"{characters / weight / 1e6:,.1f} M characters" if weight else "never read"
        table.add_row(name, f"{weight:g}", f"{result['proposed'][name]:g}", f"{characters:,}", after)
    show(table)
    correlation = result["held_out_rank_correlation"]
    told = "none (all alike)" if correlation is None else f"{correlation:.2f}"
    say(
        f"{result['num_mixtures']} mixtures of {result['step_tokens']:,} tokens each; rank correlation of "
        f"held-out predictions with what was measured: {told}"
    )
    equal, proposed = (sum(result[key]) / len(result[key]) for key in ("equal_losses", "proposed_losses"))
    say(
        f"loss of the probe, {len(result['equal_losses'])} orders of the data: {equal:.3f} nats with equal "
        f"weights, {proposed:.3f} with the proposed ones ({result['gain_nats']:.3f} less, standard error "
        f"{result['gain_standard_error']:.3f})"
    )
    if not result["is_better_than_equal"]:
        say("not better than equal weights, beyond chance: the weights below are equal")
