"""What parallel decoding costs: tokens a pass and a second against the text's quality, by threshold.

    uv run python packages/eval/benchmarks/diffusion_quality.py outputs/blocks/base-4/final \
        outputs/blocks/base-32/final --judge outputs/blocks/base-1/final --text stories.jsonl \
        --output outputs/quality

Each block-diffusion model goes on with beginnings of the text's documents, all tokens drawn at --temperature,
once for each threshold (1: one token a pass). Quality is told by an autoregressive judge: the perplexity of
what was written, given the beginning, in the judge's own tokens; beside it the judge's own text, drawn at the
same temperature, and the documents' own. A loop has a low perplexity, so distinct 4-grams are counted as
well: their number, of all 4-grams of a row's texts.

Tokens a pass are the algorithm's. Tokens a second are those of the PyTorch reference, which has no cache and
computes a text from its beginning at each pass: compare them between thresholds, not with the native engine's
(packages/inference/benchmarks). Writes OUTPUT/quality.json and OUTPUT/quality.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bitnet_arch.block_decoding import Draw, decode_blocks, drawn_with, greedy
from bitnet_arch.diffusion_model import block_diffusion_of
from bitnet_arch.scoring import score_tokens
from data_handler.readers import read_documents
from wf_formats.atomic import atomic_file, atomic_write_json
from wf_formats.block_decoding import BlockDecoding
from wf_formats.diffusion import (
    BlockDiffusion,
    check_autoregressive,
    check_diffusion,
    read_settings,
)
from wf_formats.environment import environment
from wf_formats.targets import check_way
from wrinklefree_eval.models import ModelKind, recognise
from wrinklefree_eval.torch_loading import load_torch_model
from wrinklefree_eval.torch_model import TorchModel

GRAM = 4


class Prompt(NamedTuple):
    """A document's beginning and what it has next."""

    text: str
    rest: str


class Written(NamedTuple):
    """One answer."""

    text: str
    num_tokens: int
    num_passes: int


def draw_of(temperature: float, seed: int) -> Draw:
    if temperature == 0:
        return greedy
    generator = torch.Generator().manual_seed(seed)
    return drawn_with(lambda _: float(torch.rand((), generator=generator)), temperature)


def prompts_of(judge: TorchModel, text: Path, count: int, prompt_tokens: int, tokens: int) -> list[Prompt]:
    """Of documents that are long enough, in the judge's tokens."""
    found: list[Prompt] = []
    for document in read_documents(text):
        ids = judge.tokenize(document)
        if len(ids) >= prompt_tokens + tokens:
            begin, rest = ids[:prompt_tokens], ids[prompt_tokens : prompt_tokens + tokens]
            found.append(Prompt(judge.detokenize(begin), judge.detokenize(rest)))
        if len(found) == count:
            return found
    raise SystemExit(
        f"{text} has {len(found)} documents of {prompt_tokens + tokens} tokens, {count} were asked for: "
        "give other --texts, --prompt-tokens or --tokens"
    )


def by_blocks(model: TorchModel, prompt: str, tokens: int, threshold: float, draw: Draw) -> Written:
    ids = [*model.prefix_ids, *model.tokenize(prompt)]
    ends = {model.tokenizer.eos_token_id}
    found = decode_blocks(model.model, ids, tokens, BlockDecoding(threshold), draw, ends)
    return Written(model.detokenize(found.token_ids), len(found.token_ids), found.num_passes)


@torch.no_grad()
def one_by_one(model: TorchModel, prompt: str, tokens: int, draw: Draw) -> Written:
    """Without a cache, as the reference of block decoding."""
    ids = [*model.prefix_ids, *model.tokenize(prompt)]
    start = len(ids)
    passes = 0
    while len(ids) - start < tokens:
        logits = model.model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
        passes += 1
        token = draw(logits.float().log_softmax(-1), len(ids) - start)
        if token == model.tokenizer.eos_token_id:
            break
        ids.append(token)
    return Written(model.detokenize(ids[start:]), len(ids) - start, passes)


def judged(judge: TorchModel, prompts: Sequence[Prompt], texts: Sequence[str]) -> dict[str, float | None]:
    """Perplexity of the texts after their prompts, and distinct n-grams; None: there is nothing to judge."""
    nats, count, grams = 0.0, 0, []
    for prompt, text in zip(prompts, texts, strict=True):
        own = judge.tokenize(text)
        if not own:
            continue
        begin = [*judge.prefix_ids, *judge.tokenize(prompt.text)]
        nats -= float(score_tokens(judge.model, [*begin, *own], len(begin))[0].sum())
        count += len(own)
        grams += [tuple(own[i : i + GRAM]) for i in range(len(own) - GRAM + 1)]
    return {
        "judge_perplexity": math.exp(nats / count) if count else None,
        f"distinct_{GRAM}grams": len(set(grams)) / len(grams) if grams else None,
    }


def measured(
    judge: TorchModel, prompts: Sequence[Prompt], write: Callable[[Prompt, int], Written]
) -> dict[str, Any]:
    """One row. Args: write has a prompt and its number."""
    start_s = time.perf_counter()
    written = [write(prompt, number) for number, prompt in enumerate(prompts)]
    seconds = time.perf_counter() - start_s
    tokens, passes = sum(w.num_tokens for w in written), sum(w.num_passes for w in written)
    return {
        "tokens": tokens,
        "passes": passes,
        "tokens_per_pass": tokens / max(1, passes),
        "tokens_per_second": tokens / seconds,
        **judged(judge, prompts, [w.text for w in written]),
        "first_text": written[0].text,
    }


def write_plot(report: dict[str, Any], path: Path) -> None:
    """Quality over tokens a pass and over tokens a second; diversity over tokens a pass."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    panels = (
        ("tokens_per_pass", "judge_perplexity", "Quality and parallelism"),
        ("tokens_per_second", "judge_perplexity", "Quality and speed (PyTorch reference, no cache)"),
        ("tokens_per_pass", f"distinct_{GRAM}grams", "Diversity: loops are low"),
    )
    labels = {
        "tokens_per_pass": "tokens per forward pass",
        "tokens_per_second": "tokens per second",
        "judge_perplexity": "perplexity of the text under the judge (log scale)",
        f"distinct_{GRAM}grams": f"distinct {GRAM}-grams (share)",
    }
    for axis, (across, up, title) in zip(axes, panels, strict=True):
        for name, rows in report["models"].items():
            points = [(row[across], row[up], row["threshold"]) for row in rows if row[up] is not None]
            if not points:
                continue
            xs, ys, _ = zip(*points, strict=True)
            axis.plot(xs, ys, "o-", ms=4, lw=1.5, label=name)
            for x, y, threshold in points:
                axis.annotate(f"{threshold:g}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
        own = report["judge_text"]
        if own[up] is not None:
            axis.plot(own[across], own[up], "k*", ms=9, label="the judge's own text")
        if report["documents"][up] is not None:
            axis.axhline(report["documents"][up], color="#8c8c8c", ls="--", lw=1.2, label="the documents")
        if up == "judge_perplexity":
            axis.set_yscale("log")
        axis.set_xlabel(labels[across])
        axis.set_ylabel(labels[up])
        axis.set_title(title, fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle("Block decoding; numbers are thresholds", fontsize=11)
    with atomic_file(path) as part:
        figure.savefig(part, dpi=130, format="png")


def opened(path: Path, threads: int) -> TorchModel:
    """For decoding alone."""
    kind = recognise(path)
    if kind is ModelKind.GGUF:
        raise SystemExit(f"{path} is a GGUF file, and this runs in PyTorch: give a folder")
    diffusion = BlockDiffusion.from_settings(read_settings(path))
    context_tokens = 1 if diffusion is None else diffusion.block_size  # of windows, which nobody scores
    return load_torch_model(path, kind, context_tokens, threads)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The report."""
    judge = opened(options.judge, options.threads)
    check_autoregressive(block_diffusion_of(judge.model), "--judge", "give an autoregressive model")
    models = {str(path): opened(path, options.threads) for path in options.models}
    for model in models.values():
        check_diffusion(block_diffusion_of(model.model), "this benchmark")
    sizes = (options.texts, options.prompt_tokens, options.tokens)
    prompts = prompts_of(judge, options.text, *sizes)

    def draw(number: int) -> Draw:
        return draw_of(options.temperature, options.seed * 1_000_003 + number)

    report: dict[str, Any] = {
        "benchmark": "tokens per pass against quality",
        "options": {name: str(value) for name, value in vars(options).items()},
        "documents": judged(judge, prompts, [prompt.rest for prompt in prompts]),
        "judge_text": measured(
            judge, prompts, lambda p, n: one_by_one(judge, p.text, options.tokens, draw(n))
        ),
        "models": {},
    }
    for name, model in models.items():
        rows = []
        for threshold in options.thresholds:

            def write(p: Prompt, n: int, model: TorchModel = model, threshold: float = threshold) -> Written:
                return by_blocks(model, p.text, options.tokens, threshold, draw(n))

            rows.append({"threshold": threshold, **measured(judge, prompts, write)})
        report["models"][name] = rows
    return report | environment("torch", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, help="folders of block-diffusion models")
    parser.add_argument("--judge", type=Path, required=True, help="folder of an autoregressive model")
    parser.add_argument("--text", type=Path, required=True, help="documents to go on with")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[1.0, 0.9, 0.8, 0.6, 0.4])
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="of each text")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    check_way(options.output / "quality.json")
    report = run(options)
    options.output.mkdir(parents=True, exist_ok=True)
    atomic_write_json(options.output / "quality.json", report)
    write_plot(report, options.output / "quality.png")
    for name, rows in report["models"].items():
        for row in rows:
            quality = row["judge_perplexity"]
            print(
                f"{name}: threshold {row['threshold']:g}, {row['tokens_per_pass']:.2f} tokens a pass, judged "
                f"{'nothing' if quality is None else f'{quality:.1f}'}"
            )
    print(json.dumps({"documents": report["documents"], "judge_text": report["judge_text"]}, indent=2))


if __name__ == "__main__":
    main()
