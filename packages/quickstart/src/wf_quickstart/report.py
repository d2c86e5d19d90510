"""report.md and report.json."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from wf_formats.atomic import atomic_write_json, atomic_write_text
from wf_quickstart.answers import ANSWER_TOKENS
from wf_quickstart.plots import SMOOTHING_STEPS, readable
from wf_quickstart.speed import GENERATED_TOKENS, PROMPT_TOKENS

_STAGES = (
    ("teacher", "original"),
    ("rounded", "rounded to 1.58 bits"),
    ("calibrated", "calibrated"),
    ("distilled", "distilled"),
)


def write_report(results: dict[str, Any], folder: Path) -> None:
    atomic_write_json(folder / "report.json", results)
    atomic_write_text(folder / "report.md", report(results))


def report(results: dict[str, Any]) -> str:
    """The report as Markdown."""
    parts = [
        f"# {results['model']} in 1.58 bits",
        _summary(results),
        "## Perplexity",
        _perplexity(results),
        "![Perplexity](plots/perplexity.png)",
        HONEST,
        "## Calibration",
        _calibration(results),
        "![Calibration](plots/calibration.png)",
        *_distillation(results),
        "## Size",
        _size(results),
        "![Size](plots/size.png)",
        "## Speed",
        _speed(results),
        "![Speed](plots/speed.png)",
        _engines(results),
        "## Proof of the export",
        _proof(results),
        "## Sample answers",
        _answers(results),
        "## Time",
        _time(results),
        "## Go on",
        go_on(results),
        "## Measured on",
        _environment(results),
    ]
    return "\n\n".join(parts) + "\n"


HONEST = (
    "Minutes on a processor do not restore a model. Rounding every weight to -1, 0 or 1 destroys what it "
    "knew; choosing the codes and scales on text, as here, keeps a part of it. More steps keep more of it, "
    "and training with quantization on a GPU (stage 2) starts from what this has made."
)


def _summary(results: dict[str, Any]) -> str:
    found = results["perplexity"]
    steps = "calibration"
    before, after = found["rounded"]["perplexity"], found["calibrated"]["perplexity"]
    if "distilled" in found:
        steps, after = "calibration and distillation", found["distilled"]["perplexity"]
    size = results["size"][-1]["total"] / 1e6
    return (
        f"Converted, calibrated, exported and measured in {results['total_seconds'] / 60:.1f} minutes. "
        f"Perplexity on held-out text: {readable(found['teacher']['perplexity'])} for the original, "
        f"{readable(before)} right after rounding to 1.58 bits, **{readable(after)}** after {steps}. "
        f"The exported file has {size:.0f} MB."
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _perplexity(results: dict[str, Any]) -> str:
    rows = []
    for key, name in _STAGES:
        if key not in results["perplexity"]:
            continue
        found = results["perplexity"][key]
        row = [name, readable(found["perplexity"]), f"{found['bits_per_byte']:.3f}"]
        rows.append([*row, f"{found['nll']:.3f} ± {found['nll_stderr']:.3f}"])
    table = _table(["model", "perplexity", "bits per byte", "nats per token"], rows)
    any_found, rounded = results["perplexity"]["teacher"], results["perplexity"]["rounded"]
    text = results["text"]
    return (
        f"{table}\n\n{any_found['num_tokens']:,} tokens of text that was not calibrated on (rounded: the "
        f"first {rounded['num_tokens']:,}), context {any_found['context_tokens']} tokens. "
        f"{text['held_out_documents']} documents ({text['held_out_chars']:,} characters) are held out; "
        f"{text['dropped_chars']:,} characters of the calibration text were dropped because they also "
        "stand in the held-out part."
    )


def _calibration(results: dict[str, Any]) -> str:
    found = results["calibration"]
    nats = found["losses_nats"]
    apart = [value for _, value in found["curve"]]
    first, last = fmean(apart[:SMOOTHING_STEPS]), fmean(apart[-SMOOTHING_STEPS:])
    solved, refined = (fmean(column) for column in zip(*found["block_errors"], strict=True))
    rows = [
        ["original", f"{nats['dense']:.3f}"],
        ["rounded", f"{nats['rounded']:.3f}"],
        ["blocks solved and refined", f"{nats['blocks']:.3f}"],
        ["distilled", f"{nats['calibrated']:.3f}"],
    ]
    return (
        f"{_table(['model', 'loss on other text of the same kinds (nats)'], rows)}\n\n"
        f"{_steps_taken(found)} Codes and scales of each matrix are solved for, then refined block by "
        f"block: relative error {solved:.3f}, then {refined:.3f} (mean of {len(found['block_errors'])} "
        "blocks). Then the distillation tunes scales, gains and embeddings towards the original's "
        f"predictions: {first:.2f} nats apart in the first {SMOOTHING_STEPS} steps, {last:.2f} in the last."
    )


def _distillation(results: dict[str, Any]) -> list[str]:
    """The parts of stage 3, where there was one."""
    if "distillation" not in results:
        return []
    found = results["distillation"]
    apart = [value for _, value in found["curve"]]
    first, last = fmean(apart[:SMOOTHING_STEPS]), fmean(apart[-SMOOTHING_STEPS:])
    planned = f", planned into {found['minutes']:.1f} minutes" if found["minutes"] else ""
    text = (
        f"All weights, towards the original's predictions (forward KL): {found['steps']} steps{planned}, "
        f"{found['tokens']:,} tokens. {first:.2f} nats apart in the first {SMOOTHING_STEPS} steps, "
        f"{last:.2f} in the last."
    )
    return ["## Distillation", text, "![Distillation](plots/distillation.png)"]


def _steps_taken(found: dict[str, Any]) -> str:
    """How many steps there were, and why so many."""
    least, most = min(found["refine_steps"]), max(found["refine_steps"])
    refined = f"{least}" if least == most else f"{least} to {most}"
    planned = f" This was planned into {found['minutes']:.1f} minutes." if found["minutes"] else ""
    return (
        f"{found['tokens']:,} tokens in {found['seconds'] / 60:.1f} minutes: {refined} steps of refinement "
        f"for each of {len(found['block_errors'])} blocks, {found['steps']} of distillation.{planned}"
    )


def _size(results: dict[str, Any]) -> str:
    rows = []
    for row in results["size"]:
        part = "-" if row["embeddings"] is None else f"{row['embeddings'] / 1e6:.1f}"
        rows.append([row["name"], f"{row['total'] / 1e6:.1f}", part, f"{row['bits_per_weight']:.2f}"])
    note = (
        "Embeddings stay at 8 bits; in a small model they are a large part of the file. The last column is "
        "the file without embeddings over its weights. It is above 1.58 because llama.cpp stores ternary "
        "weights in 2-bit blocks, and in 4-bit blocks where rows do not divide by 256 (its 2-bit type for "
        "those is slow on x86; `wf export --type q2_0` takes it for the smaller file). 16 bit is computed, "
        "the others are files."
    )
    return f"{_table(['model', 'MB', 'of it embeddings', 'bits per weight'], rows)}\n\n{note}"


def _speed(results: dict[str, Any]) -> str:
    speed = results["speed"]
    names = (("original", "original, 4 bit"), ("exported", "1.58 bit"))
    present = [(speed[key], name) for key, name in names if speed[key]]
    rows = [
        [
            f"{name} ({found['file']})",
            f"{found['prompt_tokens_per_s']:.0f}",
            f"{found['generation_tokens_per_s']:.0f}",
        ]
        for found, name in present
    ]
    if len(present) == 2:
        ours, theirs = speed["exported"], speed["original"]
        keys = ("prompt_tokens_per_s", "generation_tokens_per_s")
        rows.append(["ratio", *[f"{ours[key] / theirs[key]:.2f}" for key in keys]])
    found = speed["exported"]
    note = (
        f"llama.cpp on {results['environment']['cores']} cores, one request at a time, median of three: "
        f"{found['prompt_tokens']} tokens of prompt, {found['generated_tokens']} generated."
    )
    if len(present) == 1:
        note += " There is no GGUF file of the original to compare with."
    return f"{_table(['file', 'prompt tokens/s', 'generated tokens/s'], rows)}\n\n{note}"


def _engines(results: dict[str, Any]) -> str:
    """The exported file in the native engine beside llama.cpp."""
    engines = results["engines"]
    names = (("llamacpp", "llama.cpp"), ("native", f"native engine ({engines['kernels']})"))
    keys = ("prompt_tokens_per_s", "generation_tokens_per_s")
    rows = [[name, *[f"{engines[key][k]:.0f}" for k in keys]] for key, name in names if key in engines]
    if "llamacpp" in engines:
        ratios = [engines["native"][k] / engines["llamacpp"][k] for k in keys]
        rows.append(["ratio", *[f"{ratio:.2f}" for ratio in ratios]])
    note = (
        f"The exported file again, as `wf bench` measures: {PROMPT_TOKENS} tokens of prompt, "
        f"{GENERATED_TOKENS} generated, both engines in turns, median of three. The native engine is what "
        "`wf chat` and `wf serve` take."
    )
    return f"{_table(['engine', 'prompt tokens/s', 'generated tokens/s'], rows)}\n\n{note}"


def _proof(results: dict[str, Any]) -> str:
    proof = results["proof"]
    judged = proof["judged"]
    verdict = "Proved" if proof["passed"] else "NOT PROVED"
    return (
        f"{verdict}: all {proof['weights']['num_matrices']} ternary matrices read back from the file are "
        f"those of the checkpoint, and over {proof['tokens']} tokens {proof['runtime']} gives the "
        f"log-probabilities of the PyTorch model: mean difference {judged['mean_abs_delta']:.5f} nats "
        f"(allowed {proof['tolerance']:.3g}), top-1 agreement {judged['top1_agreement']:.3f}."
    )


def _answers(results: dict[str, Any]) -> str:
    lines = [f"Greedy, in llama.cpp, cut off after {ANSWER_TOKENS} tokens."]
    for row in results["answers"]:
        lines.append(f"**{row['prompt']}**")
        if row["original"] is not None:
            lines.append(f"Original:\n\n{_block(row['original'])}")
        lines.append(f"1.58 bit:\n\n{_block(row['ternary'])}")
    return "\n\n".join(lines)


def _block(text: str) -> str:
    """Indented, so that whatever a model writes stays text."""
    return "\n".join("    " + line for line in (text or "(nothing)").splitlines())


def _time(results: dict[str, Any]) -> str:
    rows = [[row["step"], f"{row['seconds']:.0f}"] for row in results["seconds"]]
    rows.append(["total", f"{results['total_seconds']:.0f}"])
    return _table(["step", "seconds"], rows)


def commands(folder: str) -> list[tuple[str, str]]:
    """(command, what it does) to go on with."""
    return [
        (f"uv run wf chat --model {folder}/export/model.gguf", "talk to it"),
        (f"uv run wf serve --model {folder}/export/model.gguf", "serve it to OpenAI clients"),
        ("uv run wf quickstart --minutes 30 --output outputs/longer", "calibrate longer"),
        ("uv run wf train -s 1 -e mine", "with your own settings, in the background"),
    ]


def go_on(results: dict[str, Any]) -> str:
    rows = commands(results["folder"])
    width = max(len(command) for command, _ in rows)
    return "```\n" + "\n".join(f"{command:<{width}}  # {what}" for command, what in rows) + "\n```"


def _environment(results: dict[str, Any]) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in results["environment"].items() if value)
