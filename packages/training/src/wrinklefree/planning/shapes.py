"""The tensors of a model by name, out of its config.json: no weight is read.

Which tensors there are is what `wf_formats.models.hf_tensors` wants of a folder, so every family that can be
trained is known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wf_formats.decoder_config import DecoderConfig
from wf_formats.diffusion import model_settings
from wf_formats.errors import LoadError, RequestError
from wf_formats.families import Family, family_of
from wf_formats.families.block import ATTENTION_BIASES, HF_EMBEDDING, HF_HEAD, MLP_BIASES
from wf_formats.file_names import CONFIG_FILE
from wf_formats.json_file import read_json
from wf_formats.models.hf_config import Quantization, Storage, read_config, read_quantization
from wf_formats.models.hf_tensors import expected_tensors
from wf_formats.packaged import PACKAGED_REPOSITORY, ModelSource
from wf_formats.schemes import FULL_PRECISION, GROUP_SIZES
from wrinklefree import capture
from wrinklefree.planning.published import PUBLISHED

Shape = tuple[int, ...]
FLOAT = 4
"""Bytes of a master weight, its gradient, and what is float32 besides."""
_BIASES = {"attention_bias": ATTENTION_BIASES, "mlp_bias": MLP_BIASES}
"""Settings that say whether an optional group of parts is there."""
_MOST_PARAMETERS = 10**15
"""More is a slip in a config.json."""
_TIED_BY_DEFAULT = ("gemma3_text", "smollm3")
"""Model types whose head is the embeddings where config.json does not say (transformers' defaults)."""


@dataclass(frozen=True)
class ModelShape:
    """shapes: of all parameters, by their Hugging Face names. scheme: of the linears' weights, or "none"."""

    name: str
    decoder: DecoderConfig
    family: Family
    scheme: str
    has_sub_norms: bool
    shapes: Mapping[str, Shape]

    @property
    def is_dense(self) -> bool:
        return self.scheme == FULL_PRECISION

    @cached_property
    def matrices(self) -> dict[str, Shape]:
        """Weights [out, in] of the blocks' linears."""
        return {
            name: shape
            for name, shape in self.shapes.items()
            if len(shape) == 2 and name not in (HF_EMBEDDING, HF_HEAD)
        }

    @cached_property
    def embeddings(self) -> dict[str, Shape]:
        """The embeddings, and the head where it is a matrix of its own."""
        return {name: shape for name, shape in self.shapes.items() if name in (HF_EMBEDDING, HF_HEAD)}

    @cached_property
    def vectors(self) -> dict[str, Shape]:
        """Norms and biases."""
        return {name: shape for name, shape in self.shapes.items() if len(shape) == 1}

    @property
    def outputs(self) -> capture.Shape:
        """What objectives compare."""
        of = self.decoder
        sizes = (of.num_heads * of.head_dim, of.num_kv_heads * of.head_dim)
        return capture.Shape(of.num_layers, of.hidden_size, of.vocab_size, *sizes)

    @property
    def num_parameters(self) -> int:
        return count(self.shapes)

    @property
    def block_parameters(self) -> int:
        """Of one decoder block, norms included."""
        return sum(size for name, size in sizes(self.shapes) if name.startswith("model.layers.0."))


def sizes(shapes: Mapping[str, Shape]) -> list[tuple[str, int]]:
    """Names and numbers of elements."""
    return [(name, math.prod(shape)) for name, shape in shapes.items()]


def count(shapes: Mapping[str, Shape]) -> int:
    return sum(size for _, size in sizes(shapes))


def model_shape(source: ModelSource, name: str | None, scheme: str, sub_norm: bool | None) -> ModelShape:
    """The shape of a source as `model` of a configuration names it.

    Raises: RequestError (a folder or config.json that cannot be used), SourceError (a repository that cannot
        be reached).
    """
    shown = PACKAGED_REPOSITORY if source is ModelSource.packaged else str(name)
    try:
        return shape_of(shown, _settings(source, shown), scheme, sub_norm)
    except LoadError as error:
        raise RequestError(f"{shown}: {error}") from error


def shape_of(name: str, settings: Mapping[str, Any], scheme: str, sub_norm: bool | None = None) -> ModelShape:
    """The shape of the model of a config.json, autoregressive or of block diffusion.

    Args:
        scheme, sub_norm: of the model that a dense one becomes; a checkpoint has its own.

    Raises: LoadError for settings that are missing or not supported; RequestError for an unknown scheme.
    """
    _check_scheme(f"model.scheme={scheme}", scheme)
    settings = model_settings(settings)
    decoder, family = read_config(settings), family_of(settings["model_type"])
    if settings.get("quantization_config") is None:
        has_sub_norms = bool(sub_norm) and scheme != FULL_PRECISION
        held = Quantization(
            Storage.MASTER, scheme if scheme in GROUP_SIZES else "tensor", has_sub_norms=has_sub_norms
        )
    elif (held := read_quantization(settings)).storage is Storage.MASTER:
        scheme = held.scheme
        _check_scheme(f"{name} has weights of scheme {scheme}", scheme)
    else:
        raise RequestError(
            f"{name} is packed already (quantization_config): name the dense model, or a checkpoint"
        )
    tied = settings.get("tie_word_embeddings")
    is_tied = settings["model_type"] in _TIED_BY_DEFAULT if tied is None else bool(tied)
    required, optional = expected_tensors(decoder, held, family, is_tied)
    shapes: dict[str, Shape] = dict(required)
    for group, parts in zip(optional, family.optional, strict=True):
        if any(settings.get(key) for key, its in _BIASES.items() if set(parts) <= set(its)):
            shapes |= group
    if count(shapes) > _MOST_PARAMETERS:
        raise LoadError(f"sizes of more than {_MOST_PARAMETERS:.0e} parameters: check its config.json")
    return ModelShape(name, decoder, family, scheme, held.has_sub_norms, shapes)


def _check_scheme(shown: str, scheme: str) -> None:
    """Raises RequestError: memory and speed of such weights are not known."""
    known = (*GROUP_SIZES, FULL_PRECISION)
    if scheme not in known:
        raise RequestError(
            f"{shown}: only these can be planned: {', '.join(known)}; plan it as model.scheme=group64, "
            "whose master weights, gradients and moments are as large"
        )


def _settings(source: ModelSource, name: str) -> Mapping[str, Any]:
    """Contents of the config.json."""
    if source is ModelSource.path:
        if not Path(name).is_dir():
            raise RequestError(f"model.name={name}: there is no such folder (in {Path.cwd()})")
        return _read(Path(name) / CONFIG_FILE)
    if name in PUBLISHED:
        return PUBLISHED[name]
    from bitnet_arch.hub import config_file

    return _read(config_file(name))


def _read(path: Path) -> Mapping[str, Any]:
    return read_json(path, RequestError)
