"""One picture of the ablation: accuracies with their standard errors, and the loss curves beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wf_quickstart.plots import LIGHT, ORIGINAL, OURS, smoothed


def write_plot(rows: Mapping[str, Mapping[str, Any]], full: str, path: Path) -> None:
    """Args: rows are those of the finished arms, in their order; `full` names the full-precision one."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, losses = figure.subplots(1, 2)
    _accuracies(accuracy, rows, full)
    _losses(losses, rows, full)
    for axis in (accuracy, losses):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    figure.savefig(path, dpi=150)


def _accuracies(axis: Any, rows: Mapping[str, Mapping[str, Any]], full: str) -> None:
    names = list(rows)[::-1]
    for height, name in enumerate(names):
        row = rows[name]
        color = ORIGINAL if name == full else OURS
        axis.errorbar(
            100 * row["accuracy"], height, xerr=100 * row["stderr"], fmt="o", color=color, capsize=3
        )
        for seed in row["seeds"]:
            axis.plot(100 * seed["accuracy"], height, "|", color=color, ms=9, alpha=0.6)
    axis.set_yticks(range(len(names)), [rows[name]["title"] for name in names])
    axis.axvline(100 * rows[names[0]]["majority"], color=LIGHT, lw=1.2, ls=":")
    if full in rows:
        axis.axvline(100 * rows[full]["accuracy"], color=ORIGINAL, lw=1.2, ls="--")
    axis.set_xlabel("accuracy (%), one standard error; dotted: majority")
    axis.set_title("Same items, same tokens", fontsize=11)


def _losses(axis: Any, rows: Mapping[str, Mapping[str, Any]], full: str) -> None:
    for name, row in rows.items():
        steps, values = zip(*row["seeds"][0]["curve"], strict=True)
        style = {"color": ORIGINAL, "ls": "--"} if name == full else {}
        axis.plot(steps, smoothed(list(values)), lw=1.6, label=row["title"], **style)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("cross-entropy of the answers (nats, smoothed, log scale)")
    axis.set_title("At each arm's best learning rate", fontsize=11)
    axis.legend(frameon=False, fontsize=8)
