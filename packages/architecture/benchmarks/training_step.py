"""One training step of the converted model beside the same step of the dense float32 model.

    uv run python packages/architecture/benchmarks/training_step.py --repeats 5

Both models run forward, next-token loss, backward and a fused AdamW update on the same batch,
interleaved in one process; the ratio is that of the medians, also given without the update, which
costs the same for both. Before timing, the int8 forward is checked against the float64
product of the same codes. Prints JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pydoc_data.topics import topics
from typing import Any

import torch

from bitnet_arch import ConversionConfig, bit_linears, convert, int8_matmul, load_dense, quantizer
from wf_formats.environment import environment


def step_seconds(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor
) -> tuple[float, float]:
    """Seconds of forward, loss and backward, and of the whole step with its update."""
    start = time.perf_counter()
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = time.perf_counter()
    optimizer.step()
    end = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    return gradients - start, end - start


def real_text(tokenizer: Any, num_sequences: int, num_tokens: int) -> torch.Tensor:
    """Ids [sequences, tokens] of Python's reference documentation, which every installation has."""
    text = "\n".join(topics.values())
    ids = tokenizer(text[: 16 * num_sequences * num_tokens])["input_ids"]
    return torch.tensor(ids[: num_sequences * num_tokens]).view(num_sequences, num_tokens)


def max_relative_error(model: torch.nn.Module) -> float:
    """Worst error of the int8 product over the first block's layers, relative to the largest output."""
    worst = 0.0
    for _, layer in list(bit_linears(model))[:7]:
        x = layer.activation.quantize(torch.randn(32, layer.in_features))
        weight = layer.quantizer.quantize(layer.weight)
        exact = x.values().double() @ weight.values().double().t()
        worst = max(worst, ((int8_matmul(x, weight) - exact).abs().max() / exact.abs().max()).item())
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=4, help="sequences")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dense, tokenizer = load_dense("packaged")
    ids = real_text(tokenizer, options.batch, options.tokens)
    fit_ids = real_text(tokenizer, 8, 256)
    models = {"dense": dense.train()}
    for scheme in ("tensor", "group64"):
        model = copy.deepcopy(dense)
        models[scheme] = convert(model, ConversionConfig(quantizer(scheme)), fit_ids)
    errors = {name: max_relative_error(model) for name, model in models.items() if name != "dense"}
    assert max(errors.values()) < 1e-5, errors
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for name, model in models.items()
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for repeat in range(options.repeats + 1):
        for name, model in models.items():
            elapsed = step_seconds(model, optimizers[name], ids)
            if repeat:  # the first round warms up
                seconds[name].append(elapsed)
    gradients, step = (
        {name: statistics.median(pair[part] for pair in pairs) for name, pairs in seconds.items()}
        for part in (0, 1)
    )
    tokens = options.batch * options.tokens
    report = {
        "benchmark": "training step, converted against dense float32",
        "tokens_per_s": {name: round(tokens / value, 1) for name, value in step.items()},
        "speed_over_dense": {name: round(step["dense"] / value, 3) for name, value in step.items()},
        "speed_over_dense_without_update": {
            name: round(gradients["dense"] / value, 3) for name, value in gradients.items()
        },
        "int8_max_relative_error": errors,
        "batch": [options.batch, options.tokens],
        "threads": options.threads,
        "repeats": options.repeats,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **environment("torch", "transformers"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
