"""The report's pictures. One message each: calibration, distillation if any, perplexity, size, speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORIGINAL, OURS, LIGHT = "#8c8c8c", "#1f6fb4", "#a9cbe8"
SMOOTHING_STEPS = 10
STAGE_NAMES = {
    "teacher": "original",
    "rounded": "rounded",
    "calibrated": "calibrated",
    "distilled": "distilled",
}


def write_plots(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the PNG files; the speed and size plots have one bar group fewer without an original GGUF."""
    import matplotlib

    matplotlib.use("agg")
    folder.mkdir(exist_ok=True)
    figures = {
        "calibration.png": calibration_plot(results),
        "perplexity.png": perplexity_plot(results),
        "size.png": size_plot(results),
        "speed.png": speed_plot(results),
    }
    if "distillation" in results:
        figures["distillation.png"] = distillation_plot(results)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=150)
    return [folder / name for name in figures]


def _figure(width: float = 7.0, height: float = 3.6, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    return figure, axes


def calibration_plot(results: dict[str, Any]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(8.4, 3.6, columns=2)
    found = results["calibration"]
    solved, refined = zip(*found["block_errors"], strict=True)
    numbers = range(len(solved))
    axes[0].plot(numbers, solved, color=LIGHT, lw=2.2, marker="o", ms=3, label="solved")
    axes[0].plot(numbers, refined, color=OURS, lw=2.2, marker="o", ms=3, label="refined")
    axes[0].set_title("Block by block", fontsize=11)
    axes[0].set_xlabel("block")
    axes[0].set_ylabel("relative error of the hidden states")
    axes[0].set_ylim(0)
    axes[0].legend(frameon=False, fontsize=9)
    axes[1].set_title("All blocks together", fontsize=11)
    _plot_divergence(axes[1], found["curve"])
    for axis in axes:
        axis.grid(axis="y", color="#e6e6e6", lw=0.8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return figure


def distillation_plot(results: dict[str, Any]) -> Figure:
    figure, (axis,) = _figure()
    _plot_divergence(axis, results["distillation"]["curve"])
    axis.set_title("Distillation of all weights: lower is better", fontsize=11)
    axis.grid(axis="y", color="#e6e6e6", lw=0.8)
    return figure


def _plot_divergence(axis: Axes, curve: list[list[float]]) -> None:
    """Args: curve has (step, nats)."""
    steps, values = zip(*curve, strict=True)
    is_long = len(steps) >= 2 * SMOOTHING_STEPS
    axis.plot(steps, values, color=LIGHT if is_long else OURS, lw=1.2, marker=None if is_long else "o", ms=4)
    if is_long:
        axis.plot(steps, smoothed(list(values)), color=OURS, lw=2.2, label="smoothed")
        axis.legend(frameon=False, fontsize=9)
    axis.set_xlabel("distillation step")
    axis.set_ylabel("divergence from the original (nats)")


def smoothed(values: list[float]) -> list[float]:
    """Mean around each value: half of `SMOOTHING_STEPS` to either side, fewer at the ends."""
    half = SMOOTHING_STEPS // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def perplexity_plot(results: dict[str, Any]) -> Figure:
    figure, (axis,) = _figure()
    found = results["perplexity"]
    names = [name for name in STAGE_NAMES if name in found]
    values = [found[name]["perplexity"] for name in names]
    colors = [ORIGINAL, *[LIGHT] * (len(names) - 2), OURS]
    bars = axis.bar([STAGE_NAMES[name] for name in names], values, width=0.6, color=colors)
    axis.set_yscale("log")
    axis.set_ylim(1, max(values) * 4)
    axis.bar_label(bars, [readable(value) for value in values], fontsize=10, padding=2)
    tokens = found["teacher"]["num_tokens"]
    axis.set_ylabel("perplexity (log scale)")
    axis.set_title(f"Perplexity on {tokens:,} tokens of held-out text: lower is better", fontsize=11)
    return figure


def size_plot(results: dict[str, Any]) -> Figure:
    figure, (axis,) = _figure(height=2.8)
    rows = results["size"][::-1]
    names = [row["name"] for row in rows]
    embeddings = [(row["embeddings"] or 0) / 1e6 for row in rows]
    rest = [row["total"] / 1e6 - part for row, part in zip(rows, embeddings, strict=True)]
    colors = [OURS if row["name"].startswith("1.58") else ORIGINAL for row in rows]
    axis.barh(names, rest, color=colors, height=0.55)
    axis.barh(
        names, embeddings, left=rest, color=colors, alpha=0.45, height=0.55, hatch="///", edgecolor="white"
    )
    longest = max(row["total"] for row in rows) / 1e6
    for index, row in enumerate(rows):
        total = row["total"] / 1e6
        text = (
            f"{total:.0f} MB"
            if row["embeddings"] is None
            else f"{total:.0f} MB, {embeddings[index]:.0f} embeddings"
        )
        axis.text(total + longest * 0.01, index, text, va="center", fontsize=9)
    axis.set_xlim(0, longest * 1.35)
    axis.set_xlabel("MB (hatched: embeddings)")
    axis.set_title("Size of the model", fontsize=11)
    return figure


def speed_plot(results: dict[str, Any]) -> Figure:
    figure, axes = _figure(7.0, 3.2, columns=2)
    speed = results["speed"]
    models = [
        (name, speed[key], color)
        for name, key, color in (("original\n4 bit", "original", ORIGINAL), ("1.58 bit", "exported", OURS))
        if speed[key]
    ]
    for axis, kind in zip(axes, ("prompt", "generation"), strict=True):
        values = [found[f"{kind}_tokens_per_s"] for _, found, _ in models]
        bars = axis.bar([name for name, _, _ in models], values, color=[c for _, _, c in models], width=0.55)
        axis.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=10, padding=2)
        axis.set_ylim(0, max(values) * 1.18)
        axis.set_ylabel("tokens per second")
        axis.set_title({"prompt": "Reading the prompt", "generation": "Generating"}[kind], fontsize=11)
    figure.suptitle(f"llama.cpp on {results['environment']['cores']} cores: higher is better", fontsize=11)
    return figure


def readable(value: float) -> str:
    """Three digits: 14.2, 1,230, 4.5 million, 1.9e8."""
    if value < 100:
        return f"{value:.1f}"
    if value < 1e6:
        return f"{float(f'{value:.3g}'):,.0f}"
    if value < 1e8:
        return f"{float(f'{value / 1e6:.2g}'):g} million"
    return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
