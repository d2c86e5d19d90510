"""The scores by domain, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_handler.corpus.score_file import BY_DOMAIN, Scored
from wf_formats.atomic import atomic_file
from wf_formats.printable import printable

_COLOR, _EDGE = "#a9cbe8", "#1f6fb4"
_ROW_INCHES = 0.45


def write_picture(path: Path, report: Mapping[str, Any], scored: Sequence[Scored]) -> None:
    """Boxes of the documents' scores (quartiles, whiskers to the 5th and 95th hundredth, the mean as a
    point), or a bar for each domain's score."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    domains = [entry for entry in report["domains"] if entry["scored"]][::-1]
    names = [printable(entry["name"], 40) for entry in domains]
    figure = Figure(figsize=(7.0, 1.6 + _ROW_INCHES * len(domains)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    if report["by"] == BY_DOMAIN:
        axis.barh(names, [entry["score"] for entry in domains], color=_COLOR, edgecolor=_EDGE, height=0.6)
        what = "score of the domain's mean gradient"
    else:
        rows = [[row.score for row in scored if row.domain == entry["name"]] for entry in domains]
        axis.boxplot(
            rows,
            orientation="horizontal",
            tick_labels=[f"{name} ({len(row):,})" for name, row in zip(names, rows, strict=True)],
            whis=(5, 95),
            widths=0.6,
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": _COLOR, "edgecolor": _EDGE},
            medianprops={"color": _EDGE},
            meanprops={"marker": "o", "markerfacecolor": _EDGE, "markeredgecolor": _EDGE, "markersize": 4},
        )
        what = "score of a document"
    axis.axvline(0, color="#8c8c8c", lw=0.8)
    axis.set_xlabel(f"{what} ({report['estimator']}): higher helps the probe")
    axis.set_title(f"Influence on {printable(report['probe']['name'], 40)}", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=150)
