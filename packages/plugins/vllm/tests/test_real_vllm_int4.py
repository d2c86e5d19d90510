"""A folder of 4 bits (W4A16) in stock vLLM on the CPU, by its own kernel, against transformers in float32.

`wf serve --engine vllm` computes it in float16, which holds the scales exactly; what is left are float16's
roundings between and in the products. Two layers of SmolLM2, 8 texts of 128 tokens (here 64), |difference| of
log-probabilities in nats:

    dtype      groups           mean       largest
    float16    64               6.4e-3     0.041
    float16    64, zero points  6.4e-3     0.043
    bfloat16   64               5.1e-2     0.46
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bitnet_arch
from wf_converter.hf_export import prepare_compressed
from wf_converter.runtimes import load_export

from .vllm_server import exported, log_probs, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
TOLERANCE = 0.015
"""Nats, of the mean."""


def test_log_probabilities_are_transformers(environment: Path, packaged_model_dir: Path, tmp_path: Path):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(packaged_model_dir, num_hidden_layers=2)
    bitnet_arch.convert(model.eval(), bitnet_arch.ConversionConfig(bitnet_arch.quantizer("int4-group64")))
    folder = exported(model, packaged_model_dir, prepare_compressed, tmp_path)
    texts = torch.randint(0, 40_000, (8, 64), generator=torch.Generator().manual_seed(1))
    targets = texts[:, 1:, None]

    def by_transformers(computed: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            logits = computed(texts, use_cache=False).logits[:, :-1]
        return logits.double().log_softmax(-1).gather(2, targets).squeeze(2)

    expected = by_transformers(load_export(folder))
    with running(folder, environment) as server:
        found = torch.tensor([log_probs(server, text) for text in texts.tolist()], dtype=torch.float64)
    assert float((found - expected).abs().mean()) <= TOLERANCE

    with torch.no_grad():  # one matrix of fourteen with scales 5 % off is far outside
        changed = load_export(folder)
        changed.model.layers[0].mlp.down_proj.register_forward_hook(lambda *call: 1.05 * call[-1])
    assert float((by_transformers(changed) - expected).abs().mean()) > 2 * TOLERANCE
