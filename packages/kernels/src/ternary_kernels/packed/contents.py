"""A packed model as facts and sections of a file, and back: nothing is computed or rounded.

Small matrices are copied into slabs of large pages (`Matrix.in_slab`): a token reads all of them, out of
small pages at times at a fraction of the speed. What is large stays mapped, for all processes once.

Sections are named after the fields of `ModelWeights` and `LayerWeights`: `final_norm`, `3.q_bias`, and for
what has several arrays `embedding/data`, `3.q/row_scales`, `3.q_correction/up`, `screen.far/data`. Sizes are
in the facts; shapes are checked against the configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ternary_kernels._native import LowRank, Matrix, Screen, packed_shape
from ternary_kernels.packed.layout import PackedFile, PackedFileError
from ternary_kernels.weights import LayerWeights, ModelWeights
from wf_formats.bounds import INT32_MAX, Bounds, is_number
from wf_formats.decoder_config import DecoderConfig, LayerAttention
from wf_formats.diffusion import BlockDiffusion
from wf_formats.families.block import MATRICES, VECTORS, part_shape
from wf_formats.rope import Rope

Part = Matrix | LowRank | np.ndarray
CORRECTIONS = tuple(f"{part}_correction" for part in MATRICES)
_SIZES = Bounds(1, INT32_MAX)
_SCREEN = "screen"


def facts_of(weights: ModelWeights) -> dict[str, Any]:
    """Configuration and sizes, for JSON."""
    return {
        "config": _config_facts(weights.config),
        "parts": {name: _sizes(part) for name, part in _parts_of(weights)},
    }


def sections_of(weights: ModelWeights) -> dict[str, np.ndarray]:
    """The arrays, where they are."""
    found: dict[str, np.ndarray] = {}
    for name, part in _parts_of(weights):
        if isinstance(part, Matrix):
            data, row_scales, group_scales = part.parts()
            found |= {f"{name}/data": data, f"{name}/row_scales": row_scales}
            if group_scales.size:
                found[f"{name}/group_scales"] = group_scales
        elif isinstance(part, LowRank):
            found[f"{name}/down"], found[f"{name}/up"] = part.parts()
        else:
            found[name] = np.ascontiguousarray(part, np.float32)
    return found


def weights_of(file: PackedFile) -> ModelWeights:
    """The model over the file's memory, which stays mapped with it; small matrices are copies.

    Raises:
        PackedFileError: something is missing, superfluous, or does not fit the configuration.
    """
    try:
        config = _config_of(file.facts["config"])
        sizes = dict(file.facts["parts"])
        layers = [_layer(file, config, sizes, index) for index in range(config.num_layers)]
        table = (config.vocab_size, config.hidden_size)
        weights = ModelWeights(
            config=config,
            embedding=_matrix(file, "embedding", sizes.pop("embedding"), table),
            head=_matrix(file, "head", sizes.pop("head"), table) if "head" in sizes else None,
            final_norm=_vector(file, "final_norm", sizes.pop("final_norm"), (config.hidden_size,)),
            layers=layers,
            screen=_screen(file, sizes, table) if f"{_SCREEN}.far" in sizes else None,
        )
    except PackedFileError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A header with the right digest and the wrong contents: only on purpose.
        raise PackedFileError(f"its header is {type(error).__name__}: {error}") from error
    if sizes:
        raise PackedFileError(f"it has {next(iter(sizes))!r:.60}, which no model has")
    file.forget()
    return weights


def _parts_of(weights: ModelWeights) -> Iterator[tuple[str, Part]]:
    parts: list[tuple[str, Part | None]] = [
        ("embedding", weights.embedding),
        ("head", weights.head),
        ("final_norm", weights.final_norm),
    ]
    for index, layer in enumerate(weights.layers):
        names = (field.name for field in dataclasses.fields(layer))
        parts += [(f"{index}.{name}", getattr(layer, name)) for name in names]
    if (screen := weights.screen) is not None:
        arrays = zip(("directions", "factors", "errors"), screen.arrays(), strict=True)
        parts += [(f"{_SCREEN}.near", screen.near), (f"{_SCREEN}.far", screen.far)]
        parts += [(f"{_SCREEN}.{name}", array.reshape(-1)) for name, array in arrays]
    return ((name, part) for name, part in parts if part is not None)


def _sizes(part: Part) -> list[Any]:
    if isinstance(part, Matrix):
        return [part.format, part.rows, part.cols, part.group_size, part.has_minimums]
    return [part.rows, part.cols, part.rank] if isinstance(part, LowRank) else [part.size]


def _layer(file: PackedFile, config: DecoderConfig, sizes: dict[str, Any], index: int) -> LayerWeights:
    def made(make: Any, fields: tuple[str, ...], suffix: str = "") -> dict[str, Any]:
        names = {field: f"{index}.{field}" for field in fields}
        return {
            field: make(file, name, sizes.pop(name), part_shape(config, field.removesuffix(suffix)))
            for field, name in names.items()
            if name in sizes
        }

    return LayerWeights(
        **made(_matrix, MATRICES),
        **made(_vector, VECTORS),
        **made(_correction, CORRECTIONS, "_correction"),
    )


def _matrix(file: PackedFile, name: str, sizes: Any, shape: tuple[int, ...]) -> Matrix:
    format, rows, cols, group, has_minimums = sizes
    if (rows, cols) != shape or not all(is_number(n, _SIZES, is_whole=True) for n in shape):
        raise PackedFileError(f"{name} is {rows} x {cols}, the configuration wants {shape}")
    blocks, _, groups = packed_shape(rows, cols, group, format)
    scales = file.array(f"{name}/group_scales", "<u2") if groups else np.empty((blocks, 0, 16), np.uint16)
    data, row_scales = file.array(f"{name}/data", "u1"), file.array(f"{name}/row_scales", "<f4")
    return Matrix.from_parts(data, row_scales, scales, rows, cols, group, format, has_minimums).in_slab()


def _screen(file: PackedFile, sizes: dict[str, Any], table: tuple[int, int]) -> Screen:
    rows, cols = table
    near = sizes.pop(f"{_SCREEN}.near")
    far = _matrix(file, f"{_SCREEN}.far", sizes.pop(f"{_SCREEN}.far"), table)
    count = near[2]
    vectors = {"directions": count * cols, "factors": count + cols, "errors": 3 * 16 * -(-rows // 16)}
    arrays = {
        name: _vector(file, f"{_SCREEN}.{name}", sizes.pop(f"{_SCREEN}.{name}"), (size,))
        for name, size in vectors.items()
    }
    return Screen.from_parts(_matrix(file, f"{_SCREEN}.near", near, (rows, count)), far, **arrays)


def _correction(file: PackedFile, name: str, sizes: Any, shape: tuple[int, ...]) -> LowRank:
    rows, cols, rank = sizes
    if (rows, cols) != shape:
        raise PackedFileError(f"{name} is {rows} x {cols}, the configuration wants {shape}")
    return LowRank.from_parts(
        file.array(f"{name}/down", "<f4"), file.array(f"{name}/up", "<f4"), rows, cols, rank
    )


def _vector(file: PackedFile, name: str, sizes: Any, shape: tuple[int, ...]) -> np.ndarray:
    vector = file.array(name, "<f4")
    if [vector.size] != sizes or vector.shape != shape:
        raise PackedFileError(f"{name} has {vector.size} values, the configuration wants {shape}")
    return vector


def _config_facts(config: DecoderConfig) -> dict[str, Any]:
    ropes = list(dict.fromkeys(layer.rope for layer in config.attention if layer.rope is not None))
    facts = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    facts["attention"] = [
        [None if layer.rope is None else ropes.index(layer.rope), layer.window] for layer in config.attention
    ]
    facts["ropes"] = [
        [list(map(float, rope.inverse_frequencies)), float(rope.attention_factor)] for rope in ropes
    ]
    facts["diffusion"] = None if config.diffusion is None else config.diffusion.to_settings()
    return facts


def _config_of(facts: Mapping[str, Any]) -> DecoderConfig:
    values = dict(facts)
    ropes = [Rope(tuple(map(float, inverse)), float(factor)) for inverse, factor in values.pop("ropes")]
    attention = tuple(
        LayerAttention(None if rope is None else ropes[rope], window)
        for rope, window in values.pop("attention")
    )
    diffusion = values.pop("diffusion")
    values["diffusion"] = None if diffusion is None else BlockDiffusion(**diffusion)
    return DecoderConfig(attention=attention, **values)
