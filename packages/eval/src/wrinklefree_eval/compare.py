"""`compare`: whether two models answer the same items differently, beyond chance.

For a metric of right and wrong (0 and 1), McNemar's test (1947), exact: of the b + c items that only one of
the two has right, b are the first one's; were both equally good, b would be binomial with p = 1/2. The p
value is the two-sided probability of a b as far from the half; it needs no correction, and no large b + c.

For every metric, the mean difference over the items and its standard error, sd(difference) / sqrt(n): smaller
than that of two means apart, since both answered the same items.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from wrinklefree_eval.answers import Answer, read_answers
from wrinklefree_eval.command import FramedCommand, new_app
from wrinklefree_eval.errors import EvalRequestError

REPORT_KEYS = ("first", "second", "comparisons")
"""Of a file that an earlier comparison wrote."""
app = new_app()


@dataclass(frozen=True)
class Comparison:
    """One metric of one task.

    Attributes:
        difference: second minus first, the mean over the items.
        stderr: of the difference; 0 for one item.
        only_first: items that the first alone has right (b); None where the metric is not right or wrong.
        only_second: the same of the second (c).
        p_value: McNemar's, exact and two-sided.
    """

    task: str
    metric: str
    num_items: int
    first: float
    second: float
    difference: float
    stderr: float
    only_first: int | None = None
    only_second: int | None = None
    p_value: float | None = None


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of the exact test; 1 where the two never differ."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    num_discordant = only_first + only_second
    return float(binomtest(only_first, num_discordant).pvalue) if num_discordant else 1.0


def compare_answers(first: Sequence[Answer], second: Sequence[Answer]) -> list[Comparison]:
    """By task and metric, in the order of the first.

    Raises:
        EvalRequestError: they are not of the same items, or of none.
    """
    others = {answer.key: answer for answer in second}
    _check_same_items({answer.key: answer for answer in first}, others)
    values: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for answer in first:
        other = others[answer.key]
        for metric in answer.metrics.keys() & other.metrics.keys():
            pair = answer.metrics[metric], other.metrics[metric]
            values.setdefault((answer.task, metric), []).append(pair)
    return [_comparison(task, metric, pairs) for (task, metric), pairs in sorted(values.items())]


def _check_same_items(first: dict[Any, Answer], second: dict[Any, Answer]) -> None:
    advice = "measure both with the same tasks, data and --limit"
    if not first:
        raise EvalRequestError(f"the first file holds no answers; {advice}")
    for key in sorted(first.keys() ^ second.keys()):
        where = "first" if key in first else "second"
        raise EvalRequestError(
            f"item {key[1]} of {key[0]} is in the {where} file only ({len(first)} and {len(second)} "
            f"answers): {advice}"
        )
    for key, answer in first.items():
        if answer.item != second[key].item:
            raise EvalRequestError(f"item {key[1]} of {key[0]} is another record in each file; {advice}")


def _comparison(task: str, metric: str, pairs: list[tuple[float, float]]) -> Comparison:
    count = len(pairs)
    differences = [b - a for a, b in pairs]
    mean = sum(differences) / count
    variance = sum((d - mean) ** 2 for d in differences) / max(1, count - 1)
    means = [sum(values) / count for values in zip(*pairs, strict=True)]
    found = Comparison(task, metric, count, means[0], means[1], mean, math.sqrt(variance / count))
    if {value for pair in pairs for value in pair} <= {0.0, 1.0}:
        only_first, only_second = differences.count(-1.0), differences.count(1.0)
        p_value = mcnemar(only_first, only_second)
        return replace(found, only_first=only_first, only_second=only_second, p_value=p_value)
    return found


@app.command(cls=FramedCommand)
def compare(
    first: Annotated[Path, typer.Argument(help="Answers of one model (`wf eval --answers`).")],
    second: Annotated[Path, typer.Argument(help="Those of another to the same items.")],
    output: Annotated[Path | None, typer.Option(help="JSON file for the comparison.")] = None,
) -> None:
    """Test whether two models answer the same items differently (McNemar, exact).

    Example: wf compare full-precision.jsonl ternary.jsonl
    """
    from wf_formats.targets import check_report

    if output is not None:
        check_report(output, REPORT_KEYS)
    found = compare_answers(read_answers(first), read_answers(second))
    if output is not None:
        from wf_formats.atomic import atomic_write_json

        rows = [asdict(comparison) for comparison in found]
        atomic_write_json(output, {"first": str(first), "second": str(second), "comparisons": rows})
    _show(found)


def _show(found: list[Comparison]) -> None:
    from rich.console import Console
    from rich.table import Table

    from wf_formats.printable import printable

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in ("task", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("items", "first", "second", "change", "stderr", "only first", "only second", "p"):
        table.add_column(name, justify="right", overflow="fold")
    for row in found:
        tested = ("", "", "")
        if row.p_value is not None:
            tested = (str(row.only_first), str(row.only_second), f"{row.p_value:.3g}")
        numbers = (f"{row.first:.4f}", f"{row.second:.4f}", f"{row.difference:+.4f}", f"{row.stderr:.4f}")
        table.add_row(printable(row.task), printable(row.metric), str(row.num_items), *numbers, *tested)
    Console(markup=False).print(table)


def main() -> None:
    """Entry of `python -m wrinklefree_eval.compare`."""
    app(prog_name=os.environ.get("WF_PROG"))


if __name__ == "__main__":
    main()
