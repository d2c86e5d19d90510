"""The results as JSON and as tables."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wf_formats.environment import versions
from wf_formats.printable import printable

PACKAGES = ("lm-eval", "torch", "transformers", "xllamacpp")


def environment() -> dict[str, str | None]:
    """What the numbers depend on."""
    return {"machine": platform.machine()} | versions(*PACKAGES)


def show(results: dict[str, Any], console: Console) -> None:
    """Print one table of facts, one of perplexities and one of task scores."""
    model = results["model"]
    name = escape(printable(model["name"]))
    console.print(
        f"[bold]{name}[/] ({model['kind']}, {model['num_parameters'] / 1e6:,.1f} million "
        f"parameters, {model['size_bytes'] / 1e6:,.1f} MB)"
    )
    if results["perplexity"]:
        console.print(_perplexity_table(results["perplexity"]))
    if results.get("bound"):
        console.print(_bound_table(results["bound"]))
    if results["tasks"]:
        console.print(_task_table(results["tasks"], results.get("tasks_by")))


def _perplexity_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Perplexity")
    table.add_column("text", overflow="fold")
    for name in ("perplexity", "bits/byte", "tokens", "context", "tokens/s"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            escape(printable(Path(row["source"]).name)),
            f"{row['perplexity']:,.3f}",
            f"{row['bits_per_byte']:.4f}",
            f"{row['num_tokens']:,}",
            f"{row['context_tokens']:,}",
            f"{row['tokens_per_second']:,.0f}",
        )
    return table


def _bound_table(rows: list[dict[str, Any]]) -> Table:
    how = dict.fromkeys((row["block_size"], row["samples"]) for row in rows)
    caption = "; ".join(
        f"blocks of {size:,} tokens, up to {samples:,} masked copies" for size, samples in how
    )
    table = Table(title="Bound on perplexity (diffusion): not a perplexity", caption=caption)
    table.add_column("text", overflow="fold")
    columns = ("bound on\nperplexity", "nats\na token", "of masks\n±", "bits\na byte", "tokens", "tokens/s")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        spread = row["mask_stderr"]
        table.add_row(
            escape(printable(Path(row["source"]).name)),
            f"{row['perplexity_bound']:,.3f}",
            f"{row['bound']:.4f}",
            "unknown" if spread is None else f"{spread:.4f}",
            f"{row['bits_per_byte_bound']:.4f}",
            f"{row['num_tokens']:,}",
            f"{row['tokens_per_second']:,.0f}",
        )
    return table


def _task_table(tasks: dict[str, dict[str, Any]], how: dict[str, Any] | None) -> Table:
    """Args: how: None where answers were scored by their likelihood."""
    title = "Tasks"
    if how is not None:
        title += (
            f", likelihoods by {printable(str(how['likelihood']))}, {how['passes_per_answer']:.1f} passes an "
            f"answer; {printable(str(how['generation']))}"
        )
    table = Table(title=title)
    for name in ("task", "metric", "value", "stderr", "samples"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for task, values in tasks.items():
        for metric, value in values.items():
            if metric == "num_samples" or "_stderr" in metric:
                continue
            error = values.get(f"{metric}_stderr")
            stderr = "" if error is None else f"{error:.4f}"
            table.add_row(task, metric, f"{value:.4f}", stderr, str(values["num_samples"]))
    return table
