"""A converted checkpoint folder as the exporters see it: config, conversion record and raw tensors.

Tensors are read one at a time from the safetensors files, so that exporting needs memory for one
matrix, not for the model. Names are those of the folder (Hugging Face). The floor of SubLN is folded into the
weights: on disk already in stock bitnet folders (see bitnet_arch), else where they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import bitnet_arch
from bitnet_arch.disk_format import transformers_config
from wf_converter.base_model import PACKAGED_LICENSE
from wf_converter.errors import ExportError
from wf_formats import diffusion
from wf_formats.diffusion import BlockDiffusion
from wf_formats.digests import model_sha256
from wf_formats.families import FAMILIES, family_of
from wf_formats.families.block import HF_STEMS, OWN_NORMS, producer
from wf_formats.families.layers import rope_parameters
from wf_formats.file_names import CONFIG_FILE, META_FILE
from wf_formats.low_rank import LowRankPair
from wf_formats.mapping import absence
from wf_formats.matrix import NumpyMatrix, QuantizedMatrix
from wf_formats.models.hf_config import checked_floors, checked_rank
from wf_formats.packaged import PACKAGED_MODEL
from wf_formats.phases import PhaseMatrix
from wf_formats.safetensors_file import open_folder
from wf_formats.schemes import INT4_SCHEMES, LOW_RANK_FACTORS, PHASE_SCHEMES, SCHEMES, Int4Scheme, group_size

QUANTIZED_SUFFIXES = tuple(
    dict.fromkeys(f"{linear}.weight" for family in FAMILIES.values() for linear in family.linears)
)
_OF_OUTPUTS = ("weight", "bias", LOW_RANK_FACTORS[0])
"""What a linear's output grows with."""
CONFIG_ERRORS = (
    StrictDataclassError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    ArithmeticError,
)
"""What transformers raises for a config.json whose values are of a wrong kind."""


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """An opened folder."""

    folder: Path
    config: dict[str, Any]
    """The model's configuration, defaults filled in."""
    meta: dict[str, Any]
    """wrinklefree.json."""
    quantizer: bitnet_arch.Quantizer
    """Ternary, of 4 bits or complex."""
    sub_norm: bool
    files: dict[str, Path] = field(repr=False)
    """Tensor name -> safetensors file."""
    low_rank: int = 0
    """Rank of the linears' corrections; 0: they have none."""
    log2_floors: Mapping[str, int] = field(default_factory=dict)
    """Exponents of SubLN floors that the weights do not have in them, by the linear that feeds the norm."""

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @cached_property
    def diffusion(self) -> BlockDiffusion | None:
        """None: an autoregressive model."""
        return BlockDiffusion.from_settings(self.config)

    @property
    def is_tied(self) -> bool:
        """Whether the output head is the embedding matrix."""
        return bool(self.config.get("tie_word_embeddings", False))

    @property
    def is_group_scaled(self) -> bool:
        return group_size(self.scheme) is not None

    @property
    def scheme(self) -> str:
        """The quantizer's name (schemes.py)."""
        return self.quantizer.name

    @property
    def int4(self) -> Int4Scheme | None:
        """None: the weights have no 4 bits."""
        return INT4_SCHEMES.get(self.scheme)

    @property
    def head_dim(self) -> int:
        heads = self.config["num_attention_heads"]
        return int(self.config.get("head_dim") or self.config["hidden_size"] // heads)

    @property
    def num_kv_heads(self) -> int:
        return int(self.config.get("num_key_value_heads") or self.config["num_attention_heads"])

    @property
    def rope(self) -> dict[str, Any]:
        """Rotary parameters of the layers that see everything."""
        return rope_parameters(self.config)

    @property
    def name(self) -> str:
        """A human name: the record's, that of the model it was made from, or the folder's."""
        origin = self.origin
        packaged = PACKAGED_MODEL if origin.get("source") == "packaged" else None
        named = self.meta.get("name") or origin.get("name") or packaged
        if isinstance(named, str) and named:
            bits = PHASE_SCHEMES.get(self.scheme, 1.58) if self.int4 is None else 4
            return f"{Path(named).name} {bits}-bit"
        return self.folder.resolve().name

    @property
    def license(self) -> str | None:
        """SPDX name, where the record or the packaged model tells it."""
        packaged = PACKAGED_LICENSE if self.origin.get("source") == "packaged" else None
        recorded = self.meta.get("license")
        return recorded if isinstance(recorded, str) and recorded else packaged

    @property
    def origin(self) -> dict[str, Any]:
        """The trainer's record of the model source: {"source": "hub", "name": ...}."""
        origin = self.meta.get("source")
        return origin if isinstance(origin, dict) else {}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the config and the weight files."""
        return model_sha256(self.folder)

    @property
    def names(self) -> list[str]:
        """Tensors of the model without its corrections."""
        return [name for name in self.files if not (self.low_rank and name.endswith(LOW_RANK_FACTORS))]

    @property
    def renamed(self) -> dict[str, str]:
        """Stems of Hugging Face names that differ from block.HF_STEMS."""
        family = family_of(self.model_type)
        own_norms = OWN_NORMS if self.sub_norm and not family.has_sub_norms else {}
        return {**family.renamed, **own_norms}

    def is_quantized(self, name: str) -> bool:
        """Whether it is a quantized matrix of a block (of 4 bits, or complex, where the scheme has them)."""
        return name.startswith("model.layers.") and name.endswith(QUANTIZED_SUFFIXES)

    def shape(self, name: str) -> tuple[int, ...]:
        with safe_open(self.files[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def torch_tensor(self, name: str) -> torch.Tensor:
        """The tensor as fp32, floors of SubLN folded in."""
        with safe_open(self.files[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        linear, _, kind = name.rpartition(".")
        floor = self.log2_floors.get(linear, 0) if kind in _OF_OUTPUTS else 0
        return tensor.float() * 2.0**-floor if floor else tensor.float()

    def tensor(self, name: str) -> np.ndarray:
        """The tensor as fp32."""
        return self.torch_tensor(name).numpy()

    def parts(self, name: str) -> dict[str, slice]:
        """The matrices in a linear of a block, by the names that they have where each stands alone.

        Args:
            name: Hugging Face name of a quantized tensor.

        Returns:
            name -> its rows.
        """
        *block, stem = name.removesuffix(".weight").split(".", 3)
        parts, start, found = family_of(self.model_type).held[stem], 0, dict[str, slice]()
        if len(parts) == 1:
            return {name: slice(None)}
        heads = {"q": self.config["num_attention_heads"], "k": self.num_kv_heads, "v": self.num_kv_heads}
        for part in parts:
            rows = heads[part] * self.head_dim if part in heads else self.config["intermediate_size"]
            found[".".join([*block, HF_STEMS[part], "weight"])] = slice(start, start + rows)
            start += rows
        return found

    def matrix(self, name: str) -> NumpyMatrix:
        """Codes and scales of a master weight, by the one definition in bitnet_arch."""
        matrix = self._quantized(name)
        assert isinstance(matrix, QuantizedMatrix), name
        return matrix

    def phases(self, name: str) -> PhaseMatrix:
        """As `matrix`, of complex weights, by the one definition in fairy2."""
        matrix = self._quantized(name)
        assert isinstance(matrix, PhaseMatrix), name
        return matrix

    def _quantized(self, name: str) -> Any:
        return self.quantizer.quantize(self.torch_tensor(name)).to(torch.Tensor.numpy)

    def check_correction(self, name: str) -> None:
        """Raises: ExportError where a factor is missing, or does not fit a master weight and the rank."""
        linear = name.removesuffix(".weight")
        for factor, size in zip(LOW_RANK_FACTORS, self.shape(name), strict=True):
            name, expected = f"{linear}.{factor}", (size, self.low_rank)
            found = self.shape(name) if name in self.files else None
            if found != expected:
                what = "is missing" if found is None else f"has the shape {list(found)}"
                raise ExportError(f"{self.folder}: {name} {what}, expected {list(expected)}")

    def correction(self, name: str) -> LowRankPair:
        """The low-rank correction of a master weight."""
        up, down = (self.tensor(f"{name.removesuffix('.weight')}.{factor}") for factor in LOW_RANK_FACTORS)
        return LowRankPair(up, np.ascontiguousarray(down.T))


def open_checkpoint(folder: Path | str) -> ConvertedCheckpoint:
    """Opens a checkpoint folder.

    Raises:
        ExportError: no config, no weights, the model was never converted to ternary weights, has a scheme
            that no installed package knows, or complex weights with low-rank corrections.
        LoadError: a file is damaged, or missing beside its index.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise ExportError(f"{folder} is not a checkpoint folder: config.json {absence(folder / CONFIG_FILE)}")
    config = read_settings(folder)
    try:
        meta = bitnet_arch.read_meta(folder)
    except bitnet_arch.CheckpointError as error:
        raise ExportError(str(error)) from error
    conversion = meta.get("conversion")
    if meta.get("export"):
        raise ExportError(f"{folder} is an export already; give the checkpoint that it was made from")
    if not conversion:
        remedy = "convert it first (training stage1_subln)"
        if BlockDiffusion.from_settings(config) is not None:
            remedy = "make the model ternary first, then a block-diffusion model of that (wf dlm)"
        raise ExportError(
            f"{folder} holds a dense model (wrinklefree.json has no 'conversion'): there are no ternary "
            f"weights to export; {remedy}"
        )
    if not isinstance(conversion, dict) or not isinstance(conversion.get("scheme"), str):
        raise ExportError(f"{folder / META_FILE} is damaged: conversion is {conversion!r:.80}")
    scheme, low_rank = conversion["scheme"], checked_rank(conversion.get("low_rank", 0))
    quantizer = _quantizer(scheme)
    if scheme in PHASE_SCHEMES and low_rank:
        raise ExportError(
            f"{folder} has low-rank corrections (rank {low_rank}) of complex weights ({scheme}), which no "
            "export holds: serve the folder as it is (wf serve)"
        )
    return ConvertedCheckpoint(
        folder=folder,
        config=config,
        meta=meta,
        quantizer=quantizer,
        sub_norm=bool(conversion.get("sub_norm")),
        files=open_folder(folder).paths,
        low_rank=low_rank,
        log2_floors=_unfolded_floors(config, conversion),
    )


def _unfolded_floors(config: Mapping[str, Any], conversion: Mapping[str, Any]) -> dict[str, int]:
    """By the linear that feeds the SubLN; stock bitnet folders have them in their weights."""
    if config["model_type"] == "bitnet":
        return {}
    floors = checked_floors(conversion.get("sub_norm_log2_floor") or {})
    return {producer(consumer): floor for consumer, floor in floors.items()}


def read_settings(folder: Path) -> dict[str, Any]:
    """Contents of config.json, as of the model in memory, with transformers' defaults filled in and the class
    of the model, which other servers look for: a model that was read from GGUF has none written.

    Raises:
        ExportError: it is no configuration.
        LoadError: it is missing or damaged.
    """
    settings = diffusion.read_settings(folder)
    try:
        config: dict[str, Any] = transformers_config(folder, settings).to_dict()
    except CONFIG_ERRORS as error:
        raise ExportError(f"{folder / CONFIG_FILE}: {' '.join(str(error).split())}") from error
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config["model_type"])
    return config if config.get("architectures") or name is None else config | {"architectures": [name]}


def _quantizer(scheme: str) -> bitnet_arch.Quantizer:
    try:
        quantizer = bitnet_arch.quantizer(scheme)
    except ValueError as error:
        raise ExportError(str(error)) from error
    if scheme not in (*SCHEMES, *PHASE_SCHEMES):
        raise ExportError(
            f"weights of scheme {scheme!r} are not ternary, of 4 bits or complex, and no type of an "
            "export holds them: run the folder in PyTorch, write its values as a float model, for a GGUF in "
            "F16 (packages/fairy2/scripts/dense.py), or export a checkpoint of scheme "
            f"{', '.join([*SCHEMES, *PHASE_SCHEMES])}"
        )
    return quantizer
