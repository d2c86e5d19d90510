"""All figures of a quickstart as one JSON value (report.json); the report and plots show only this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wf_formats.environment import commit, cpu_name, num_cores, versions
from wf_formats.run_files import read_metrics
from wf_quickstart.context import CALIBRATION, DISTILLATION, Context
from wf_quickstart.state import State

MODELS = ("teacher", "rounded", "calibrated")
"""With stage 3 `distilled` too."""
DIVERGENCE = "logits_distill/divergence_nats"
BITS_16 = 16


def collect(context: Context, state: State, titles: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Keys: model, options, text, perplexity, calibration, proof, size, speed, engines, answers, ..."""
    is_distilled = context.options.distil
    models = (*MODELS, "distilled") if is_distilled else MODELS
    perplexity = {name: state.figures(f"eval_{name}") for name in models}
    original, exported = state.figures("llamacpp_original"), state.figures("llamacpp_exported")
    spent_s = [(title, round(state.spent_s(name), 1)) for name, title in titles]
    return {
        "model": context.options.model_label,
        "folder": _shown(context.folder),
        "options": context.options.identity(),
        "conversion": state.figures("model"),
        "text": state.figures("text"),
        "perplexity": {name: _perplexity(found) for name, found in perplexity.items()},
        "calibration": _stage(context, state, CALIBRATION, "train/divergence"),
        **({"distillation": _stage(context, state, DISTILLATION, DIVERGENCE)} if is_distilled else {}),
        "proof": state.figures("proof"),
        "size": _sizes(original, exported),
        "speed": {"original": _speed(original), "exported": _speed(exported)},
        "engines": state.figures("engines"),
        "answers": _answers(original, exported),
        "seconds": [{"step": title, "seconds": seconds} for title, seconds in spent_s],
        "total_seconds": round(sum(seconds for _, seconds in spent_s), 1),
        "environment": environment() | perplexity["calibrated"]["environment"],
    }


def _shown(folder: Path) -> str:
    """Relative to where `wf` runs, if it is below."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _perplexity(found: dict[str, Any]) -> dict[str, Any]:
    names = ("perplexity", "bits_per_byte", "nll", "nll_stderr", "num_tokens", "context_tokens", "seconds")
    return {name: found[name] for name in names}


def _stage(context: Context, state: State, stage: str, metric: str) -> dict[str, Any]:
    """The stage's summary without its folder, and (step, divergence in nats) of its distillation."""
    summary = {k: v for k, v in state.figures(stage).items() if k != "run_folder"}
    rows = read_metrics(context.run_folder(stage))
    return summary | {"curve": [[int(row["step"]), row[metric]] for row in rows]}


def _sizes(original: dict[str, Any], exported: dict[str, Any]) -> list[dict[str, Any]]:
    """Bytes of the files, and bits per weight outside the embeddings. 16 bit is computed, not a file."""
    rows = []
    if original:
        weights = original["sizes"]["num_weights"]
        row = {"name": "original, 16 bit", "total": weights * BITS_16 // 8, "embeddings": None}
        rows += [row | {"bits_per_weight": BITS_16}, _size("original, 4 bit (GGUF)", original["sizes"])]
    rows.append(_size("1.58 bit (GGUF)", exported["sizes"]))
    return rows


def _size(name: str, sizes: dict[str, int]) -> dict[str, Any]:
    """The bits include norms, scales and the tokenizer: everything that is not embeddings."""
    rest_weights = sizes["num_weights"] - sizes["num_embedding_weights"]
    bits = 8 * (sizes["total"] - sizes["embeddings"]) / rest_weights
    return {
        "name": name,
        "total": sizes["total"],
        "embeddings": sizes["embeddings"],
        "bits_per_weight": round(bits, 2),
    }


def _speed(found: dict[str, Any]) -> dict[str, Any] | None:
    names = ("file", "prompt_tokens", "generated_tokens", "prompt_tokens_per_s", "generation_tokens_per_s")
    return {name: found[name] for name in names} if found else None


def _answers(original: dict[str, Any], exported: dict[str, Any]) -> list[dict[str, str | None]]:
    theirs = [row["answer"] for row in original.get("answers", [])]
    return [
        {"prompt": row["prompt"], "original": theirs[i] if theirs else None, "ternary": row["answer"]}
        for i, row in enumerate(exported["answers"])
    ]


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    return {"cpu": cpu_name(), "cores": num_cores(), "commit": commit()} | versions()
