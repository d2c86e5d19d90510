"""The checkpoint in PyTorch, as trained or with the roundings of an inference runtime.

A W1.58A8 model rounds its activations per token. llama.cpp rounds them too, but elsewhere, and that
moves log-probs by more than a scale off by 1 % does. To prove an export sharply, the reference
makes the same roundings:

    weights       activations                                        file format
    TQ1_0, TQ2_0  int8 per 256 inputs, fp32 scale  127 / max         Q8_K
    Q2_0, Q4_0,   int8 per 32 inputs, scale max / 127 kept in fp16   Q8_0
    Q8_0
    Q4_1          the same; its fp16 sums of blocks are     Q8_1
                  not imitated, so that some roundings
                  flip
    F16           fp16
    I2_S          int8 per token, scale max / 127, as training       of bitnet.cpp
    compressed-   int8 per token, scale max / 127.5                  of the package
    tensors
    head q8_0     as Q4_0, and its weights int8 per 32 with an fp16 scale; the same matrix embeds
    head of the   its weights int8 per 32; the same matrix embeds
    native engine

Codes and scales come from the checkpoint by bitnet_arch, never from the exported file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gguf import quants
from gguf.constants import GGMLQuantizationType
from torch import Tensor, nn

import bitnet_arch
from wf_converter.errors import ExportError
from wf_converter.scores import Difference, torch_scores
from wf_formats.gguf import TensorType
from wf_formats.gguf.codecs import EMBEDDING_TYPES, EXPORT_TYPES
from wf_formats.matrix import NumpyMatrix, QuantizedMatrix
from wf_formats.models.groups import quantize_rows
from wrinklefree_inference import TokenScores

Rounding = Callable[[Tensor], Tensor]


def round_q8_0(x: Tensor) -> Tensor:
    """[..., K] as llama.cpp's Q8_0 blocks of 32 hold it."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    peak = blocks.abs().amax(-1, keepdim=True)
    codes = torch.where(peak > 0, blocks * (127 / peak), 0).round()
    return (codes * (peak / 127).half().float()).view(x.shape)


def round_q8_k(x: Tensor) -> Tensor:
    """[..., K] as llama.cpp's Q8_K blocks of 256 hold it: the largest magnitude becomes -127."""
    blocks = x.reshape(*x.shape[:-1], -1, 256)
    peak = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    codes = torch.where(peak != 0, blocks * (-127 / peak), 0).round().clamp(max=127)
    return (codes * (peak / -127)).view(x.shape)


def round_f16(x: Tensor) -> Tensor:
    return x.half().float()


def round_tokens(x: Tensor) -> Tensor:
    """[..., K] as training has it: the largest magnitude of a token becomes 127."""
    return bitnet_arch.Int8PerToken().quantize(x).values()


def round_compressed(x: Tensor) -> Tensor:
    """[..., K] as compressed-tensors has it: a token's largest magnitude is 127.5, cut off at 127."""
    scale = x.abs().amax(-1, keepdim=True) / 127.5
    return torch.where(scale > 0, x / scale, 0).clamp(-128, 127).round() * scale


def keep(x: Tensor) -> Tensor:
    return x


EXACT, COMPRESSED = "f32", "compressed-tensors"
"""Types beside those of GGUF."""
LAST_BITS = 1e-6
"""Relative standard deviation that `own_noise` adds."""
ENGINE = "8 bits in the native engine"
"""Of embeddings and head that a folder has as floats."""
ENGINE_TYPES = {label: f"{label} in the native engine" for label in EMBEDDING_TYPES}
"""Those of embeddings and head there."""
_ROUNDING_TO = {
    TensorType.Q8_K: round_q8_k,
    TensorType.Q8_0: round_q8_0,
    TensorType.Q8_1: round_q8_0,
    TensorType.F16: round_f16,
    TensorType.I8: round_tokens,
}
ROUNDINGS: Mapping[str, Rounding] = {
    EXACT: keep,
    COMPRESSED: round_compressed,
    "q8_0": round_q8_0,
    **dict.fromkeys((ENGINE, *ENGINE_TYPES.values()), keep),
} | {kind.label: _ROUNDING_TO[export.activations] for kind, export in EXPORT_TYPES.items()}
"""What a runtime does to the inputs of a matrix, by the label of its type."""


class RoundedLinear(nn.Module):
    """y = round(norm(x)) W^T + b with fixed weights: a linear layer as an inference runtime runs it.

    Factors U, V of a low-rank correction add norm(x) V U^T.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        norm: nn.Module | None,
        rounding: Rounding,
        factors: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__()
        self.weight, self.bias, self.norm = weight, bias, norm
        self.rounding, self.factors = rounding, factors
        self.gain = 1.0
        """Factor on the weight scale, to ask what a wrong scale would do."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self.norm is not None:
            x = self.norm(x)
        y = F.linear(self.rounding(x) * self.gain, self.weight, self.bias)
        if self.factors is None:
            return y
        up, down = self.factors
        return y + F.linear(F.linear(x, down.t()), up)


def reference_model(folder: Path | str) -> Any:
    """The checkpoint as trained (per-token int8 activations), evaluation mode.

    Raises:
        ExportError: a file is missing or damaged.
    """
    try:
        return bitnet_arch.load_checkpoint(folder).model
    except bitnet_arch.CheckpointError as error:
        raise ExportError(str(error)) from error


def emulate(model: Any, types: Mapping[str, str], group_scales_fp16: bool = True) -> Any:
    """Gives a loaded checkpoint the roundings of a runtime, in place.

    Args:
        types: label in ROUNDINGS by Hugging Face module name: every BitLinear, and "lm_head" (also the
            embedding's type where tied, see "model.embed_tokens").
        group_scales_fp16: group scales are fp16 in GGUF blocks.
    """
    for name, layer in list(bitnet_arch.bit_linears(model)):
        matrix = layer.quantizer.quantize(layer.weight)
        if matrix.scales.dim() and group_scales_fp16:
            matrix = replace(matrix, scales=matrix.scales.half().float())
        weight = matrix.values()
        rounding = ROUNDINGS[types[name]]
        factors = (layer.lrc_u, layer.lrc_v) if isinstance(layer, bitnet_arch.BitLinearLRC) else None
        model.set_submodule(name, RoundedLinear(weight, layer.bias, layer.sub_norm, rounding, factors))
    head_type = types["lm_head"]
    head = stored(model.lm_head.weight, head_type)
    embeddings = stored(model.model.embed_tokens.weight, types["model.embed_tokens"])
    model.lm_head = RoundedLinear(head, None, None, ROUNDINGS[head_type])
    model.model.embed_tokens.weight = nn.Parameter(embeddings, requires_grad=False)
    return model


def stored(weight: Tensor, kind: str) -> Tensor:
    """An embedding matrix after a round trip through its type."""
    if kind == EXACT:
        return weight
    if kind == ENGINE:
        return torch.from_numpy(_in_engine(weight.detach().float().numpy()))
    label = next((label for label, there in ENGINE_TYPES.items() if there == kind), kind)
    quantized = GGMLQuantizationType(EMBEDDING_TYPES[label])
    data = quants.quantize(weight.detach().float().numpy(), quantized)
    rows = np.ascontiguousarray(quants.dequantize(data, quantized), np.float32)
    if kind == ENGINE_TYPES["f16"]:
        rows = _in_engine(rows)
    return torch.from_numpy(rows)


def _in_engine(rows: np.ndarray) -> np.ndarray:
    """8 bits of groups, whose scales the engine packs into 11 bits."""
    import ternary_kernels

    matrix = quantize_rows("embeddings", lambda part: rows[part], rows.shape)
    codes, scales = ternary_kernels.pack_groups(matrix.codes, matrix.scales, matrix.bits).unpack()
    packed: NumpyMatrix = QuantizedMatrix(codes, scales, matrix.bits)
    return packed.values()


def own_noise(model: Any, ids: Sequence[int], scores: TokenScores) -> float:
    """Mean |difference| of log-probs (nats) of a model from its own `scores`, with the last bits of its
    embeddings changed: what order of sums and flipped roundings make of it."""
    weight = model.get_input_embeddings().weight
    kept = weight.data
    generator = torch.Generator().manual_seed(0)
    weight.data = kept * (1 + LAST_BITS * torch.randn(kept.shape, generator=generator))
    found = torch_scores(model, ids)
    weight.data = kept
    return Difference.between(scores, found).mean_abs_delta


def scale_sensitivity(model: Any, ids: Sequence[int], step: float = 0.01) -> np.ndarray:
    """d log-prob / d ln(scale) of each token but the first, all ternary scales moving together.

    A central difference without any activation rounding, since roundings that flip would drown it.
    The model (of `emulate`) is left changed: without rounding and with another gain.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, RoundedLinear)]
    layers = [layer for layer in layers if layer is not model.lm_head]
    scores = []
    for gain in (1 + step, 1 - step):
        for layer in layers:
            layer.rounding, layer.gain = keep, gain
        scores.append(torch_scores(model, ids).logprobs)
    difference: np.ndarray = scores[0] - scores[1]
    return difference / (2 * step)
