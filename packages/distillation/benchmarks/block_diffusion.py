"""A small autoregressive model and the block-diffusion models made of it, at equal tokens, dense and ternary.

    uv run python packages/distillation/benchmarks/block_diffusion.py --data ../shared/data \\
        --output outputs/blocks > blocks.json

Stories in small letters (pretrain/tinystories and pretrain/tinystories_lowercase), a byte-level BPE of 2,048
tokens, a Llama of 6 layers from nothing. Runs, each in a folder below --output and left out where it has
ended:

    base               --base-tokens, autoregressive
    ternary            --base-tokens more in BitLinear with groups of 64, from base
    {base,ternary}-1   --tokens more of the autoregressive objective (blocks of one token, with the shift)
    {base,ternary}-D   --tokens of the objective dlm in blocks of D tokens, from the same start

Prints JSON: tokens, seconds and folder of each, and what `wf eval` says of it on the validation stories (the
perplexity of autoregressive models, the bound of the others). How many tokens a pass they decode at which
quality: packages/eval/benchmarks/diffusion_quality.py on the same folders.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from data_handler.small_tokenizer import small_tokenizer
from wf_formats.atomic import atomic_file
from wf_formats.environment import environment
from wrinklefree.train import main as train

LENGTH_TOKENS, BATCH = 256, 8
NUM_TOKENS = 2048
"""Of the vocabulary."""
STORIES = ("tinystories", "tinystories_lowercase")


def make_material(data: Path, folder: Path, hidden: int) -> None:
    """Texts, tokenizer and a model from nothing in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [text for name in STORIES for text in _stories(data / "pretrain" / name / "train.jsonl.gz")]
    _write(folder / "train.jsonl", texts)
    _write(folder / "test.jsonl", _stories(data / "pretrain" / STORIES[0] / "validation.jsonl.gz"))
    tokenizer = small_tokenizer(texts, NUM_TOKENS, bos="<s>")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=6,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=2 * LENGTH_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def _stories(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"].strip().lower() for line in file]


def _write(path: Path, texts: list[str]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


class Start(NamedTuple):
    """A run's folder, and what the trainer has to be told of the model in it."""

    folder: Path
    scheme: str
    source: Path
    """The dense model that stage 1 began with."""


class Runs:
    """Stages of the trainer below `output`, each run once."""

    def __init__(self, output: Path, options: argparse.Namespace) -> None:
        self.output, self.options = output, options

    def converted(self, name: str, scheme: str, source: Path) -> Start:
        """Stage 1."""
        model = [f"model.scheme={scheme}", f"model.name={source}"]
        return Start(self._run("training=stage1_subln", name, "stage1", model), scheme, source)

    def trained(self, name: str, start: Start, tokens: int) -> Start:
        folder = self._gradient("training=stage2_pretrain", name, "stage2", start, tokens)
        return start._replace(folder=folder)

    def denoising(self, name: str, start: Start, tokens: int, block_size: int) -> Start:
        more = f"training.block_size={block_size}"
        folder = self._gradient("training=stage4_diffusion", name, "stage4", start, tokens, more)
        return start._replace(folder=folder)

    def _gradient(self, option: str, name: str, stage: str, start: Start, tokens: int, *more: str) -> Path:
        settings = [
            f"model.scheme={start.scheme}",
            f"model.name={start.source}",
            f"training.start_from={start.folder / 'final'}",
            "training.max_steps=null",
            f"training.max_tokens={tokens}",
            f"training.batch_size={BATCH}",
            f"training.sequence_length_tokens={LENGTH_TOKENS}",
            f"training.learning_rate={self.options.rate}",
            "training.schedule.warmup=0.05",
            "training.checkpoint.every_steps=0",
            "logging.console_every_steps=100",
        ]
        return self._run(option, name, stage, [*settings, *more])

    def _run(self, option: str, name: str, stage: str, settings: list[str]) -> Path:
        """The run's folder."""
        folder = self.output / name / stage
        if (folder / "final").exists():
            return folder
        text = self.output / "material" / "train.jsonl"
        arguments = [
            option,
            f"output_dir={self.output}",
            f"experiment={name}",
            f"num_threads={self.options.threads}",
            "logging.progress_bar=none",
            "model.source=path",
            f"data.sources=[{{kind: path, name: stories, location: {text}}}]",
            *settings,
        ]
        with contextlib.redirect_stdout(sys.stderr):
            code = train(arguments)
        if code:
            raise SystemExit(f"a run ended with {code}: {' '.join(arguments)}")
        return folder


def evaluation(checkpoint: Path, text: Path, threads: int) -> Any:
    """What `wf eval` writes."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "results.json")
        command = [sys.executable, "-m", "wrinklefree_eval.evaluate", "--model-path", str(checkpoint)]
        command += ["--text", str(text), "--context", str(LENGTH_TOKENS), "--threads", str(threads)]
        subprocess.run([*command, "--output", str(output)], check=True, stdout=sys.stderr)
        return json.loads(output.read_text())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pretrain/tinystories")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--base-tokens", type=int, default=2_500_000)
    parser.add_argument("--tokens", type=int, default=800_000)
    parser.add_argument("--block-sizes", default="4,32", help="separated by commas (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="128: 1.4 million parameters")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="base,ternary", help="starts (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    options = parse()
    output = options.output.absolute()
    if not (output / "material" / "model").exists():
        make_material(options.data.absolute(), output / "material", options.hidden)
    runs = Runs(output, options)
    from_nothing = runs.converted("base", "none", output / "material" / "model")
    base = runs.trained("base", from_nothing, options.base_tokens)
    starts = {"base": base}
    if "ternary" in options.only.split(","):
        rounded = runs.converted("ternary", "group64", base.folder / "final")
        starts["ternary"] = runs.trained("ternary", rounded, options.base_tokens)
    done: dict[str, Start] = {}
    for name in options.only.split(","):
        start = starts[name]
        done[name] = start
        done[f"{name}-1"] = runs.trained(f"{name}-1", start, options.tokens)
        for size in map(int, options.block_sizes.split(",")):
            done[f"{name}-{size}"] = runs.denoising(f"{name}-{size}", start, options.tokens, size)
    text = output / "material" / "test.jsonl"
    report = {
        "benchmark": "block diffusion of a small model",
        "base_tokens": options.base_tokens,
        "tokens": options.tokens,
        "hidden": options.hidden,
        "runs": {
            name: {
                "folder": str(run.folder.relative_to(output)),
                "summary": json.loads((run.folder / "summary.json").read_text()),
                "evaluation": evaluation(run.folder / "final", text, options.threads),
            }
            for name, run in done.items()
        },
        **environment("torch", "transformers", "lightning"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
