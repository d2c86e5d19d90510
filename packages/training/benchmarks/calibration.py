"""Stage 1.5 of SmolLM2-135M-Instruct on real text: time, held-out losses, perplexity of WikiText-2 test.

    uv run python packages/training/benchmarks/calibration.py --data ../shared/data --output outputs/c
    uv run python packages/training/benchmarks/calibration.py ... --scheme tensor --sub-norm \
        training.ternarize.distil_steps=60

Further arguments are Hydra overrides of stage 1.5. Calibrated on seven parts ordinary text to each three
of Wikipedia as it is and of text with punctuation set apart, as WikiText writes it (` ,`, ` @-@ `); none
of WikiText is read. `--plain` leaves the last out. `--further 60` distils the result for 60 minutes more.
Prints JSON: the stage's own figures and perplexities of rounded and calibrated weights, with and without int8
activations, beside full precision.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from data_handler import SourceConfig, iter_documents
from wf_formats.environment import environment

ROOT = Path(__file__).parents[3]
PARTS = {"wikipedia": 3, "fineweb": 2, "openstax": 2, "fineweb_edu": 1, "c4": 1, "books": 1}
"""Of the mixture's tokens."""
SPACED = {"wikipedia": None, "openstax": 150}
"""Texts that are also used with punctuation set apart, and how many documents of each."""
SPACED_PARTS = 3
MOST_FURTHER_STEPS = 4000
"""Of so many there is text; the time decides."""
_SET_APART = (
    (r"(?<=\w)-(?=\w)", " @-@ "),
    (r"(?<=\d)([.,])(?=\d)", r" @\1@ "),
    (r"(?<!@)([,;:()!?\"“”])(?!@)", r" \1 "),
    (r"(\w)\.(\s|$)", r"\1 .\2"),
    (r"(\w)'s\b", r"\1 's"),
    (r" +", " "),
)


def set_apart(text: str) -> str:
    """Punctuation as separate words, as the Penn Treebank and WikiText write it."""
    for pattern, replacement in _SET_APART:
        text = re.sub(pattern, replacement, text)
    return text


def write_spaced(texts: Path, output: Path) -> None:
    with output.open("w") as file:
        for name, count in SPACED.items():
            documents = iter_documents(SourceConfig("path", name, str(texts / name / "train.jsonl.gz")))
            for text in itertools.islice(documents, count):
                file.write(json.dumps({"text": set_apart(text)}) + "\n")


def source(name: str, location: Path, weight: int) -> str:
    return f"{{kind: path, name: {name}, location: '{location}', weight: {weight}}}"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "packages" / script), *arguments]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{script} failed with exit code {done.returncode}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with pretrain/<name>/*.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--scheme", default="group64", help="group64 (default) or tensor; rows of 576 do not divide by 128"
    )
    parser.add_argument("--sub-norm", action="store_true")
    parser.add_argument("--plain", action="store_true", help="no text with punctuation set apart")
    parser.add_argument("--further", type=float, metavar="MINUTES", help="distil the result so much longer")
    parser.add_argument("--windows", type=int, default=20, help="of WikiText-2 test (default: 20)")
    args, overrides = parser.parse_known_args()
    texts, output = (args.data / "pretrain").resolve(), args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    sources = [source(name, texts / name / "train.jsonl.gz", weight) for name, weight in PARTS.items()]
    if not args.plain:
        spaced = output / "spaced.jsonl"
        write_spaced(texts, spaced)
        sources.append(source("spaced", spaced, SPACED_PARTS))
    common = [
        "model=smollm2_135m",
        f"model.scheme={args.scheme}",
        f"model.sub_norm={str(args.sub_norm).lower()}",
        f"data.sources=[{', '.join(sources)}]",
        f"output_dir={output}",
    ]
    run("training/scripts/train.py", "training=stage1_subln", *common)
    run("training/scripts/train.py", "training=stage1_5_calibrate", *common, *overrides)
    stages = {name: output / "default" / name for name in ("stage1", "stage1_5")}
    if args.further is not None:
        keys = {"keep_codes": "true", "minutes": args.further, "distil_steps": MOST_FURTHER_STEPS}
        run(
            "training/scripts/train.py",
            "training=stage1_5_calibrate",
            *common,
            *overrides,
            "experiment=further",
            f"training.start_from={stages['stage1_5'] / 'final'}",
            "seed=1",
            *(f"training.ternarize.{key}={value}" for key, value in keys.items()),
        )
        stages["further"] = output / "further" / "stage1_5"
    perplexity: dict[str, Any] = json.loads(
        run(
            "eval/benchmarks/ternary_perplexity.py",
            f"--text={texts / 'wikitext2_raw' / 'test.jsonl.gz'}",
            f"--windows={args.windows}",
            *(str(folder / "final") for folder in stages.values()),
        )
    )
    found = {
        **{name: json.loads((folder / "summary.json").read_text()) for name, folder in stages.items()},
        "perplexity": perplexity,
        **environment("torch", "transformers"),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
