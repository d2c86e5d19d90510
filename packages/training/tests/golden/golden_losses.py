"""The losses of a tiny model through the three stages, independent of the machine's vector units.

    python packages/training/tests/golden/golden_losses.py            print the losses as JSON
    python packages/training/tests/golden/golden_losses.py --write    replace losses.json

Rounding differs between instruction sets (sums are split differently), and the quantizer turns a
last-bit difference into another code. So the run pins the code paths by environment variables,
before torch is imported: ATen's kernels without AVX, MKL's bitwise-reproducible mode that all
x86-64 CPUs share, one thread. Weights and text come from integer arithmetic, not from torch's
random numbers; the training kernels run without vectors too, and int8 products are PyTorch's own integer
ones: oneDNN without AVX-512 adds pairs of them in 16 bits, which overflow. Stage 2 runs in each precision.
Losses are written in hexadecimal, since they are compared exactly.
"""

# ruff: noqa: E402 (the environment has to be set before torch is imported)
from __future__ import annotations

import os

PINNED = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
if __name__ == "__main__":
    os.environ.update(PINNED)

import contextlib
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import ternary_kernels
from wrinklefree.train import main

GOLDEN_FILE = Path(__file__).with_name("losses.json")
NUM_STEPS = 8
FURTHER_PRECISIONS = ("bf16", "int8")


def write_model(folder: Path) -> None:
    """A Llama of 2 layers with weights from PCG64, which is defined in integers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast: Any = transformers.PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config)
    generator = np.random.default_rng(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            values = (generator.random(parameter.shape) - 0.5) * 0.125
            parameter.data = torch.from_numpy(values.astype(np.float32))
    model.save_pretrained(folder)


def write_text(path: Path) -> None:
    lines = [f"Entry {i} of the list has the value {i * i % 97}. " * (1 + i % 4) for i in range(120)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))


def run_stages(folder: Path) -> dict[str, Any]:
    """Losses of all steps as float.hex; stage 1 has three losses on held-out text."""
    write_model(folder / "dense")
    write_text(folder / "text.jsonl")
    source = f"{{kind: path, name: text, location: {folder / 'text.jsonl'}}}"
    common = [
        "model.source=path",
        f"model.name={folder / 'dense'}",
        f"data.sources=[{source}]",
        f"output_dir={folder / 'out'}",
        "num_threads=1",
        "logging.progress_bar=none",
    ]
    steps = [
        "distributed.accelerator=cpu",
        "training.sequence_length_tokens=32",
        "training.batch_size=2",
        f"training.max_steps={NUM_STEPS}",
        "training.schedule.warmup=2",
        "training.zclip.warmup_steps=3",
    ]
    own = {
        "stage1_subln": [
            "training.fit.tokens=512",
            "training.fit.sequence_length_tokens=32",
            "training.fit.evaluation_tokens=128",
        ],
        "stage1_9_layerwise": steps,
        "stage2_pretrain": [
            *steps,
            "training.learning_rate=3e-4",
            "training.schedule.decay=3",
            "training.lambda_warmup_steps=3",
        ],
    }
    for training, overrides in own.items():
        run_stage(training, *common, *overrides)
    aligned = folder / "out" / "default" / "stage1_9" / "final"
    for precision in FURTHER_PRECISIONS:
        options = [
            f"experiment={precision}",
            f"training.precision={precision}",
            f"training.start_from={aligned}",
        ]
        run_stage("stage2_pretrain", *common, *own["stage2_pretrain"], *options)
    return _collect(folder / "out")


def run_stage(training: str, *overrides: str) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        code = main([f"training={training}", *overrides])
    assert code == 0, f"{training} ended with exit code {code}"


def _collect(out: Path) -> dict[str, Any]:
    stage1 = json.loads((out / "default" / "stage1" / "summary.json").read_text())["losses_nats"]
    collected: dict[str, Any] = {"stage1": {k: v.hex() for k, v in stage1.items()}}
    for stage in ("stage1_9", "stage2"):
        collected[stage] = _losses(out / "default" / stage)
    for precision in FURTHER_PRECISIONS:
        collected[f"stage2 {precision}"] = _losses(out / precision / "stage2")
    return collected


def _losses(run: Path) -> list[str]:
    with (run / "metrics.csv").open() as file:
        return [float(row["train/loss"]).hex() for row in csv.DictReader(file)]


def _int_mm(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.int() @ y.int()


def run() -> dict[str, Any]:
    ternary_kernels.select_isa("scalar")
    torch._int_mm = _int_mm  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        losses = run_stages(Path(folder))
    return {"torch": torch.__version__.partition("+")[0], "losses": losses}


if __name__ == "__main__":
    text = json.dumps(run(), indent=2) + "\n"
    if "--write" in sys.argv:
        GOLDEN_FILE.write_text(text)
    else:
        sys.stdout.write(text)
