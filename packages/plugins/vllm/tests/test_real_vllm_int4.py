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

import os
from pathlib import Path

import httpx
import pytest
import torch

import bitnet_arch
from wf_converter.hf_export import prepare_compressed
from wf_converter.runtimes import load_export
from wrinklefree_inference.options import VllmOptions, VllmServerOptions
from wrinklefree_inference.stock.programs import VLLM
from wrinklefree_inference.stock.server import start_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
TOLERANCE = 0.015
"""Nats, of the mean."""


def test_log_probabilities_are_transformers(packaged_model_dir: Path, tmp_path: Path):
    import transformers

    if "WF_VLLM" not in os.environ:
        pytest.skip("no environment with vLLM: WF_VLLM=FOLDER names one (scripts/environment makes it)")
    model = transformers.AutoModelForCausalLM.from_pretrained(packaged_model_dir, num_hidden_layers=2)
    bitnet_arch.convert(model.eval(), bitnet_arch.ConversionConfig(bitnet_arch.quantizer("int4-group64")))
    tokenizer = transformers.AutoTokenizer.from_pretrained(packaged_model_dir)
    bitnet_arch.save_checkpoint(model, tokenizer, tmp_path / "checkpoint", {"stage": "stage1"})
    prepare_compressed(tmp_path / "checkpoint").write(tmp_path / "export")
    texts = torch.randint(0, 40_000, (8, 64), generator=torch.Generator().manual_seed(1))
    targets = texts[:, 1:, None]

    def log_probs(computed: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            logits = computed(texts, use_cache=False).logits[:, :-1]
        return logits.double().log_softmax(-1).gather(2, targets).squeeze(2)

    expected = log_probs(load_export(tmp_path / "export"))
    options = VllmServerOptions(tmp_path / "export", engine=VllmOptions(256, 2, Path(os.environ["WF_VLLM"])))
    server = start_server(VLLM, options)
    try:
        found = torch.tensor([_asked(server, text) for text in texts.tolist()], dtype=torch.float64)
    finally:
        server.close()
    assert float((found - expected).abs().mean()) <= TOLERANCE

    with torch.no_grad():  # one matrix of fourteen with scales 5 % off is far outside
        changed = load_export(tmp_path / "export")
        changed.model.layers[0].mlp.down_proj.register_forward_hook(lambda *call: 1.05 * call[-1])
    assert float((log_probs(changed) - expected).abs().mean()) > 2 * TOLERANCE


def _asked(server, text: list[int]) -> list[float]:
    asked = {
        "model": server.model_id,
        "prompt": text,
        "max_tokens": 1,
        "prompt_logprobs": 0,
        "temperature": 0,
    }
    headers = {"Authorization": f"Bearer {server.key}"}
    url = f"{server.kept.url}/v1/completions"
    answer = httpx.post(url, json=asked, headers=headers, timeout=600, trust_env=False)
    assert answer.status_code == 200, answer.text
    entries = answer.json()["choices"][0]["prompt_logprobs"]
    return [entry[str(token)]["logprob"] for entry, token in zip(entries, text, strict=True) if entry]
