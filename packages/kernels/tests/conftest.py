"""Helpers of the decoder's tests: feeding it step by step, and random models with their PyTorch reference."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ternary_kernels as tk
from ternary_kernels.loading import load_model
from wf_formats.families.block import HF_STEMS, MATRICES

VOCAB = 320
RATIO_ERROR = {1: 2.0**-22, 2: 2.0**-11}
"""Of packed scales: float32 (one more rounding), and float16 times a power of two."""
Schedule = list[list[tuple[int, int]]]
"""Forward calls; each a list of (sequence, number of new tokens)."""


@pytest.fixture
def restore_isa() -> Iterator[None]:
    yield
    tk.select_isa("auto")


@pytest.fixture(params=[n for n, state in tk.info()["instruction_sets"].items() if state == "available"])
def instruction_set(request: pytest.FixtureRequest, restore_isa: None) -> None:
    """Each one that runs here."""
    tk.select_isa(request.param)


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of PyTorch, on which the training kernels run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def page_table(lengths: Sequence[int], seed: int | None = None) -> np.ndarray:
    """Cache pages of each sequence, in order or shuffled; -1 where none is needed."""
    needed = [-(-length // tk.PAGE_TOKENS) for length in lengths]
    pages = np.arange(sum(needed), dtype=np.int32)
    if seed is not None:
        np.random.default_rng(seed).shuffle(pages)
    table = np.full((len(lengths), max(needed)), -1, np.int32)
    for row, part in zip(table, np.split(pages, np.cumsum(needed)[:-1]), strict=True):
        row[: len(part)] = part
    return table


def schedule(kind: str, lengths: Sequence[int]) -> Schedule:
    """How the tokens of several sequences are divided over calls.

    `alone`: each sequence whole, one after the other. `batch`: all whole in one call. `steps`: one token of
    each. `chunks`: 1 to 13 tokens of some of them, at random, so that positions drift apart.
    """
    numbers = range(len(lengths))
    if kind == "alone":
        return [[(s, lengths[s])] for s in numbers]
    if kind == "batch":
        return [[(s, lengths[s]) for s in numbers]]
    if kind == "steps":
        return [[(s, 1) for s in numbers if i < lengths[s]] for i in range(max(lengths))]
    assert kind == "chunks"
    rng = np.random.default_rng(5)
    left, calls = list(lengths), []
    while any(left):
        running = [s for s in numbers if left[s]]
        chosen = [s for s in running if rng.random() < 0.6] or running[:1]
        calls.append([(s, min(left[s], int(rng.integers(1, 14)))) for s in rng.permutation(chosen).tolist()])
        for s, count in calls[-1]:
            left[s] -= count
    return calls


def feed(
    decoder: tk.Decoder,
    texts: Sequence[np.ndarray],
    calls: Schedule,
    table: np.ndarray,
    contexts: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """Logits [tokens, vocab] of every token of every text."""
    done = [0] * len(texts)
    offsets = list(contexts or done)
    found: list[list[np.ndarray]] = [[] for _ in texts]
    for call in calls:
        tokens = np.concatenate([texts[s][done[s] : done[s] + count] for s, count in call])
        starts = np.cumsum([0, *(count for _, count in call)], dtype=np.int32)
        before = np.array([offsets[s] + done[s] for s, _ in call], np.int32)
        pages = np.ascontiguousarray(table[[s for s, _ in call]])
        logits = decoder.forward(tokens, starts, before, pages, np.arange(len(tokens), dtype=np.int32))
        for (s, count), rows in zip(call, np.split(logits, starts[1:-1]), strict=True):
            found[s].append(rows)
            done[s] += count
    return [np.concatenate(rows) for rows in found]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def matrix_values(matrix: tk.Matrix) -> np.ndarray:
    """float32 [rows, cols] that a packed matrix stands for."""
    codes, scales = matrix.unpack()
    grouped = codes.reshape(len(codes), scales[0].size, -1) * scales.reshape(len(codes), -1, 1)
    return grouped.reshape(codes.shape)


def scaled(matrix: tk.Matrix, factor: float) -> tk.Matrix:
    codes, scales = matrix.unpack()
    return tk.pack_ternary(codes, scales * np.float32(factor), matrix.format)


@dataclasses.dataclass
class TinyModel:
    """A converted random model, packed, and as PyTorch runs it."""

    weights: tk.ModelWeights
    reference: Any

    def with_scales(
        self, factor: float, layer: int | None = None, parts: Sequence[str] = MATRICES
    ) -> tk.ModelWeights:
        """The packed model with wrong scales in one layer or all of them."""
        layers = [
            dataclasses.replace(old, **{part: scaled(getattr(old, part), factor) for part in parts})
            if layer in (None, index)
            else old
            for index, old in enumerate(self.weights.layers)
        ]
        return dataclasses.replace(self.weights, layers=layers)

    def expected(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities [tokens, vocab] of each text by PyTorch."""
        import torch

        lengths = {len(text) for text in texts}
        batches = [np.stack(texts)] if len(lengths) == 1 else [text[None] for text in texts]
        with torch.no_grad():
            logits = [
                self.reference(torch.from_numpy(batch.astype(np.int64)), use_cache=False).logits
                for batch in batches
            ]
        return [log_softmax(rows.numpy()) for batch in logits for rows in batch]


def reference_linear(matrix: tk.Matrix, linear: Any) -> Any:
    """A BitLinear's replacement with a packed matrix's codes and scales."""
    import torch

    import bitnet_arch

    codes, scales = (torch.from_numpy(array) for array in matrix.unpack())
    expected = linear.quantizer.quantize(linear.weight)
    assert torch.equal(codes, expected.codes)
    ratios = expected.scales / scales
    floor = 2.0 ** ratios.median().log2().round()  # of SubLN: folded into v and up on disk, in the norm here
    torch.testing.assert_close(
        ratios / floor, torch.ones_like(ratios), rtol=RATIO_ERROR[scales.dim()], atol=0
    )
    scales = scales * floor

    def values() -> torch.Tensor:
        """float64 [out, in]: products with int8 inputs err by less than 1e-13."""
        grouped = codes.double().view(len(codes), scales[0].numel(), -1)
        return (grouped * scales.double().view(len(scales), -1, 1)).flatten(1)

    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sub_norm, self.bias = linear.sub_norm, linear.bias
            corrected = isinstance(linear, bitnet_arch.BitLinearLRC)
            self.factors = (linear.lrc_u, linear.lrc_v) if corrected else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.sub_norm is not None:
                x = self.sub_norm(x)
            rounded = bitnet_arch.Int8PerToken().quantize(x)
            y = (torch.nn.functional.linear(rounded.codes.double(), values()) / rounded.inverse_scale).to(
                x.dtype
            )
            if self.factors is not None:
                u, v = self.factors
                y = y + x @ v @ u.t()
            return y if self.bias is None else y + self.bias

    return Fixed()


def pin_to_packed(model: Any, weights: tk.ModelWeights) -> Any:
    """Gives a converted model the numbers that the packed one holds: embeddings, head and group scales are
    rounded by packing. What is left to differ is the order of float sums, and the head's 16-bit inputs."""
    import torch

    import bitnet_arch

    layers = {
        f"model.layers.{index}.{HF_STEMS[part]}": getattr(layer, part)
        for index, layer in enumerate(weights.layers)
        for part in MATRICES
    }
    for name, linear in list(bitnet_arch.bit_linears(model)):
        model.set_submodule(name, reference_linear(layers[name], linear))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.from_numpy(matrix_values(weights.embedding)))
        if weights.head is not None:
            model.lm_head.weight.copy_(torch.from_numpy(matrix_values(weights.head)))
    return model


def randomize(model: Any, seed: int = 1) -> None:
    """Weights that make log-probabilities far from uniform, and no norm or bias trivial."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.1 * noise)


def load_master(folder: Path) -> tk.ModelWeights:
    """A training checkpoint, packed; bitnet_arch (and torch) are imported for tests that need them."""
    from bitnet_arch.master_quantizer import quantize_master

    return load_model(folder, quantize_master)


def convert_and_pin(model: Any, scheme: str, fit_ids: Any, folder: Path, rank: int = 0) -> TinyModel:
    """Converts a dense model by bitnet_arch, with corrections of a rank, saves it, and loads it packed."""
    import torch

    import bitnet_arch

    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer(scheme))
    bitnet_arch.convert(model.eval(), config, fit_ids)
    if rank:
        bitnet_arch.install_low_rank(model, rank)
        generator = torch.Generator().manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lrc_" in name:
                torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    bitnet_arch.save_checkpoint(model, None, folder, {"stage": "stage2"})
    weights = load_master(folder)
    return TinyModel(weights, pin_to_packed(model, weights))


def make_tiny(family: str, scheme: str, overrides: dict[str, Any], folder: Path) -> TinyModel:
    """A random model of a family that bitnet_arch converts; override `rank` gives it low-rank corrections."""
    import torch
    import transformers

    options = {"vocab_size": VOCAB, "num_hidden_layers": 2, "max_position_embeddings": 1024} | overrides
    rank = options.pop("rank", 0)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**options))
    randomize(model)
    return convert_and_pin(model, scheme, torch.randint(3, VOCAB, (8, 64)), folder, rank)


def make_bitnet(activation: str, folder: Path, **overrides: Any) -> TinyModel:
    """transformers' own BitNet with ternary weights quantized online."""
    import transformers

    options = {"vocab_size": VOCAB, "num_hidden_layers": 2, "max_position_embeddings": 256} | overrides
    options |= {"bos_token_id": 1, "eos_token_id": 2}
    config = transformers.BitNetConfig(hidden_act=activation, **options)
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomize(model)
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    written["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
    }
    (folder / "config.json").write_text(json.dumps(written))
    weights = load_master(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return TinyModel(weights, pin_to_packed(reference, weights))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TinyModel]:
    """`make_tiny` / `make_bitnet` (family "BitNet", scheme = activation)."""

    def make(family: str, scheme: str, overrides: dict[str, Any]) -> TinyModel:
        folder = tmp_path_factory.mktemp("tiny") / "model"
        if family == "BitNet":
            return make_bitnet(scheme, folder, **overrides)
        return make_tiny(family, scheme, overrides, folder)

    return make


@pytest.fixture(scope="session")
def feeding() -> SimpleNamespace:
    """The helpers of this file that tests call: `feed`, `schedule`, `page_table` and so on."""
    helpers = (feed, schedule, page_table, log_softmax, convert_and_pin, scaled)
    return SimpleNamespace(**{helper.__name__: helper for helper in helpers}, vocab=VOCAB, parts=MATRICES)
