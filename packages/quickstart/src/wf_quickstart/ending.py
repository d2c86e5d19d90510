"""What the terminal shows when a quickstart is done."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from wf_formats.printable import legible
from wf_quickstart.display import Display
from wf_quickstart.plots import STAGE_NAMES, readable
from wf_quickstart.report import HONEST, commands


def say_ending(results: dict[str, Any], display: Display) -> None:
    console = display.console
    console.print()
    console.print(_answers(results))
    found = results["perplexity"]
    figures = " → ".join(f"{STAGE_NAMES[key]} {readable(found[key]['perplexity'])}" for key in found)
    display.say(f"[bold]Perplexity[/] on held-out text: {figures}")
    size = results["size"][-1]
    display.say(
        f"[bold]Size[/] {size['total'] / 1e6:.0f} MB, of it {size['embeddings'] / 1e6:.0f} MB embeddings"
    )
    display.say(f"\n{HONEST}\n")
    display.say(f"[bold]Report[/] {escape(results['folder'])}/report.md")
    for command, what in commands(results["folder"]):
        display.say(f"  [cyan]{escape(command)}[/]  [dim]{what}[/]")


def _answers(results: dict[str, Any]) -> Table:
    table = Table(title="Sample answers", title_justify="left", show_lines=True)
    has_original = results["answers"][0]["original"] is not None
    for name in ("prompt", *(["original"] if has_original else []), "1.58 bit"):
        table.add_column(name, ratio=1, overflow="fold")
    for row in results["answers"]:
        cells = [row["prompt"], *([row["original"]] if has_original else []), row["ternary"]]
        table.add_row(*(escape(legible(cell or "(nothing)")) for cell in cells))
    return table
