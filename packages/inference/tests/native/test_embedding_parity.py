"""Embeddings of the real engine beside transformers' hidden states of the same folder.

Compared is the length of the difference of two vectors of length 1. The decoder holds the embedding matrix
in 8 bits, and a rounding of an activation that falls otherwise moves its token: 0.012 to 0.016 for this
random model. With the matrix as the decoder holds it, the mean over a long text is within 0.002; a scale of
one matrix in each layer that is 5 % off makes 0.012, a token left out 0.005, the last state alone 0.56.

Slow: PyTorch, which no other test here needs. The decoder's states are compared with PyTorch's in
`packages/kernels/tests/test_decoder.py`, the pooling with the little model's in `test_native_embedding.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wrinklefree_inference.native.async_engine import AsyncNativeEngine
from wrinklefree_inference.native.inbox import Inbox
from wrinklefree_inference.native.loading import load_native_model
from wrinklefree_inference.native.request import GenerationRequest, SamplingParams
from wrinklefree_inference.options import CacheOptions, EngineOptions, QueueOptions

TOLERANCE = 0.03
PINNED_TOLERANCE = 0.004
TEXTS = ["x", "The quick brown fox jumps over the lazy dog.", "Ternary weights are -1, 0 and 1. " * 8]
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tiny_llama: Any, byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model, as training saves it; no norm is trivial."""
    import torch

    import bitnet_arch

    model = tiny_llama(vocab_size=259)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn(parameter.shape))
    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer("group64"))
    bitnet_arch.convert(model, config, torch.randint(3, 259, (4, 64)))
    path = tmp_path_factory.mktemp("embedded") / "model"
    bitnet_arch.save_checkpoint(model, byte_tokenizer(), path, {"stage": "stage2"})
    return path


def states_of(folder: Path, ids: list[int], pinned: bool, factor: float = 1.0) -> np.ndarray:
    """transformers' last hidden states, which it gives after the final norm: float64 [tokens, hidden].

    Args:
        pinned: With the embedding matrix as the decoder holds it.
        factor: Of one matrix in each layer.
    """
    import torch

    import bitnet_arch
    from bitnet_arch.master_quantizer import quantize_master
    from ternary_kernels.loading import load_model

    model = bitnet_arch.load_checkpoint(folder).model
    with torch.no_grad():
        if pinned:
            codes, scales = load_model(folder, quantize_master).embedding.unpack()
            values = codes.reshape(*scales.shape, -1) * scales[..., None]
            model.get_input_embeddings().weight.copy_(torch.from_numpy(values.reshape(codes.shape)))
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(factor)
        found = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    states: np.ndarray = found.double().numpy()
    return states


def distance(vector: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(vector - other / np.linalg.norm(other)))


@pytest.mark.slow
def test_embeddings_are_transformers(folder: Path) -> None:
    model = load_native_model(folder, EngineOptions(num_threads=1), CacheOptions())
    prompts = [model.tokenize(text) for text in TEXTS]

    async def main() -> list[np.ndarray]:
        engine = AsyncNativeEngine(model, QueueOptions(max_batch_tokens=64))
        inbox, found = Inbox(), {}
        for number, ids in enumerate(prompts):
            request = GenerationRequest(tuple(ids), SamplingParams(), str(number), embeds=True)
            engine.submit_to(inbox, number, request)
        while len(found) < len(prompts):
            for number, delta in await inbox.take():
                found[number] = np.frombuffer(delta.embedding, "<f4")
        await engine.close()
        return [found[number] for number in range(len(prompts))]

    vectors = asyncio.run(main())
    for vector, ids in zip(vectors, prompts, strict=True):
        assert vector.shape == (256,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        assert distance(vector, states_of(folder, ids, pinned=False).mean(0)) < TOLERANCE
    long, ids = vectors[-1], prompts[-1]
    states = states_of(folder, ids, pinned=True)
    assert distance(long, states.mean(0)) < PINNED_TOLERANCE
    wrong = states_of(folder, ids, pinned=True, factor=1.05).mean(0), states[1:].mean(0), states[-1]
    assert all(distance(long, other) > PINNED_TOLERANCE for other in wrong)
