"""The picture of a steered mixture: weights by step, what they were decided by, and the losses.

Drawn from metrics.csv, which a resumed run has cut where its checkpoint was, so it is that of the whole run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wf_formats.atomic import atomic_file
from wf_formats.run_files import STEP, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG = logging.getLogger("wrinklefree")
PLOT_FILE = "mixture.png"
_PANELS = {
    "mixture": "share of the data",
    "influence": "cosine with the probes",
    "odm_reward": "estimated reward",
    "loss": "loss of a token",
}
"""Groups of metrics, each of those that a run has with a panel of its own."""


def draw_mixture(run_folder: Path) -> None:
    """Writes `mixture.png` from the run's metrics; nothing where they are not written or have no mixture."""
    rows = read_metrics(run_folder)
    if not any(name.startswith("mixture/") for row in rows for name in row):
        LOG.warning("no %s: %s has no mixture (logging.csv)", PLOT_FILE, run_folder)
        return
    figure = mixture_figure(rows)
    with atomic_file(run_folder / PLOT_FILE) as path, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names of letters that the font lacks
        figure.savefig(path, dpi=150, format="png")


def mixture_figure(rows: Sequence[dict[str, float]]) -> Figure:
    """A panel a group, a line a source, in the same colours in all of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row))
    groups = {group: [n for n in names if n.startswith(f"{group}/")] for group in _PANELS}
    groups = {group: found for group, found in groups.items() if found}
    sources = [name.removeprefix("mixture/") for name in groups["mixture"]]
    figure = Figure(figsize=(7.6, 2.6 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (group, found) in enumerate(groups.items(), 1):
        axis = figure.add_subplot(len(groups), 1, number)
        for name in found:
            steps, values = zip(*((row[STEP], row[name]) for row in rows if name in row), strict=True)
            source = name.removeprefix(f"{group}/")
            color = f"C{sources.index(source) % 10}" if source in sources else None
            axis.plot(steps, values, color=color, lw=1.6)
        _describe(axis, _PANELS[group])
    axis.set_xlabel("step")
    figure.axes[0].set_ylim(0)
    shown = [source.replace("$", r"\$") for source in sources]  # between two of them is a formula
    figure.axes[0].legend(figure.axes[0].lines, shown, frameon=False, fontsize=9, ncols=3)
    return figure


def _describe(axis: Axes, title: str) -> None:
    axis.set_ylabel(title, fontsize=9)
    axis.tick_params(labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e6e6e6", lw=0.8)
