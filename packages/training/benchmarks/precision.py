"""Training losses of each precision of the backward pass beside float32, over several seeds.

    uv run python packages/training/benchmarks/precision.py --steps 500 --seeds 3

A small Llama with ternary layers is trained from scratch on the bytes of Python's reference documentation;
seeds differ in weights and in the order of the text. A precision is as good as float32 where its held-out
loss differs from float32's of the same seed by less than float32's own spread over the seeds. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pydoc_data.topics import topics

import torch
import transformers
from torch import Tensor
from tqdm import tqdm

import bitnet_arch
from bitnet_arch.gradients import PRECISIONS
from bitnet_arch.install import install_bit_linears
from wf_formats.environment import environment
from wrinklefree.cross_entropy import chunked_cross_entropy
from wrinklefree.forward import run_forward

BYTES, BATCH, TOKENS, HELD_OUT_BATCHES = 256, 8, 128, 16
PEAK_RATE, WARMUP_STEPS = 3e-3, 20


def build(scheme: str, precision: str, seed: int) -> transformers.LlamaForCausalLM:
    """4 layers of 128, about 0.8 million weights."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=BYTES,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    install_bit_linears(model, bitnet_arch.quantizer(scheme), {})
    bitnet_arch.use_kernels(model)
    bitnet_arch.set_precision(model, precision)
    return model


def loss_of(model: transformers.LlamaForCausalLM, ids: Tensor, precision: str) -> Tensor:
    positions = torch.arange(TOKENS).expand_as(ids)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "float32"):
        result = run_forward(model, {"input_ids": ids, "position_ids": positions})
        return chunked_cross_entropy(result.last_hidden_state, result.head_weight, ids, ids.numel())


def text() -> Tensor:
    """Rows of bytes [rows, TOKENS]."""
    ids = torch.frombuffer(bytearray("\n".join(topics.values()).encode()), dtype=torch.uint8).long()
    return ids[: len(ids) // TOKENS * TOKENS].view(-1, TOKENS)


def train(scheme: str, precision: str, seed: int, num_steps: int) -> dict[str, float]:
    """Held-out loss in nats a byte, and the mean of the last tenth of the training losses."""
    model = build(scheme, precision, seed)
    rows = text()[torch.randperm(len(text()), generator=torch.Generator().manual_seed(seed))]
    held_out, rows = rows[: HELD_OUT_BATCHES * BATCH], rows[HELD_OUT_BATCHES * BATCH :]
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)
    losses = []
    for step in tqdm(range(num_steps), f"{scheme} {precision} seed {seed}", leave=False):
        share = min(1, (step + 1) / WARMUP_STEPS) * (1 - step / num_steps)
        optimizer.param_groups[0]["lr"] = PEAK_RATE * share
        batch = rows[torch.arange(step * BATCH, (step + 1) * BATCH) % len(rows)]
        loss = loss_of(model, batch, precision)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    with torch.no_grad():
        found = statistics.mean(loss_of(model, part, precision).item() for part in held_out.split(BATCH))
    return {"held_out": found, "training": statistics.mean(losses[-max(1, num_steps // 10) :])}


def summary(runs: dict[str, list[float]]) -> dict[str, dict[str, object]]:
    """Of each precision: losses by seed, mean difference to float32 and the spread of float32."""
    reference = runs["float32"]
    spread = max(reference) - min(reference)
    found: dict[str, dict[str, object]] = {}
    for name, losses in runs.items():
        differences = [a - b for a, b in zip(losses, reference, strict=True)]
        found[name] = {
            "held_out_nats_by_seed": [round(loss, 4) for loss in losses],
            "difference_by_seed": [round(difference, 4) for difference in differences],
            "within_float32_spread": max(map(abs, differences)) <= spread,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--schemes", default="tensor,group64", help="separated by commas")
    parser.add_argument("--threads", type=int, default=1, help="more gain nothing for so small a model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = {
        scheme: summary(
            {
                name: [train(scheme, name, seed, options.steps)["held_out"] for seed in range(options.seeds)]
                for name in PRECISIONS
            }
        )
        for scheme in options.schemes.split(",")
    }
    settings = {"benchmark": "precision of the backward pass", "steps": options.steps}
    print(json.dumps(settings | report | environment("torch"), indent=2))


if __name__ == "__main__":
    main()
