"""The tensors that a Hugging Face folder must have, with the shapes and dtypes of each storage."""

from __future__ import annotations

from wf_formats.decoder_config import DecoderConfig
from wf_formats.errors import LoadError
from wf_formats.families import Family
from wf_formats.families.block import (
    HF_EMBEDDING,
    HF_FINAL_NORM,
    HF_HEAD,
    NORMS,
    SUB_NORMS,
    hf_name,
    part_shape,
)
from wf_formats.models.completeness import Shapes
from wf_formats.models.hf_config import Quantization, Storage
from wf_formats.packed_codes import NIBBLES_PER_WORD
from wf_formats.phases import COLUMNS_OF_BYTE, check_columns, check_summed
from wf_formats.safetensors_file import FLOATS, SafetensorsFolder
from wf_formats.schemes import LOW_RANK_FACTORS, PHASE_SCHEMES


def expected_tensors(
    config: DecoderConfig, quantization: Quantization, family: Family, is_tied: bool
) -> tuple[Shapes, list[Shapes]]:
    """Shapes of the tensors that must be there, and groups of those that may be, all or none of a group.

    Args:
        family: says which parts there are besides the common ones.

    Raises:
        LoadError: a matrix cannot have its shape with this quantization.
    """
    own = quantization.has_sub_norms
    vectors = [*NORMS, *family.extras, *(SUB_NORMS if own and not family.has_sub_norms else ())]
    matrix = (config.vocab_size, config.hidden_size)
    required: Shapes = {HF_EMBEDDING: matrix, HF_FINAL_NORM: (config.hidden_size,)}
    optional: list[Shapes] = [{} for _ in family.optional]
    if not is_tied:
        required[HF_HEAD] = matrix
    for layer in range(config.num_layers):
        for stem, parts in family.held.items():
            linear = f"model.layers.{layer}.{stem}"
            required |= _stored_shapes(config, quantization, f"{linear}.weight", parts)
            if quantization.low_rank:
                required |= _factor_shapes(config, quantization.low_rank, linear, parts)
        required |= {hf_name(layer, part, own, family.renamed): part_shape(config, part) for part in vectors}
        for shapes, group in zip(optional, family.optional, strict=True):
            shapes |= {hf_name(layer, part): part_shape(config, part) for part in group}
    return required, optional


def check_stored(
    tensors: SafetensorsFolder, config: DecoderConfig, quantization: Quantization, family: Family
) -> None:
    """Compares dtypes with what the storage holds, and shapes that are told beside words of codes.

    Args:
        tensors: of the right names and shapes.

    Raises:
        LoadError: names the tensor.
    """
    packed: dict[str, str] = {}
    for layer in range(config.num_layers):
        for stem, parts in family.held.items():
            name = f"model.layers.{layer}.{stem}.weight"
            if quantization.storage is Storage.PACKED_WORDS:
                packed |= {f"{name}_packed": "I32", f"{name}_shape": "I64", f"{name}_zero_point": "I32"}
                _check_told(tensors, name, config, parts)
            elif quantization.storage in (Storage.PACKED_INPUTS, Storage.PACKED_ROWS, Storage.PHASES):
                packed[name] = "U8"
    for name in tensors.shapes:
        found, expected = tensors.dtype(name), packed.get(name)
        if found != expected if expected else found not in FLOATS:
            raise LoadError(f"tensor {name} is {found}, expected {expected or ', '.join(FLOATS)}")


def _check_told(tensors: SafetensorsFolder, name: str, config: DecoderConfig, parts: tuple[str, ...]) -> None:
    rows, columns = sum(part_shape(config, part)[0] for part in parts), part_shape(config, parts[0])[1]
    if (told := tensors.raw(f"{name}_shape").tolist()) != [rows, columns]:
        raise LoadError(f"tensor {name}_shape says {told}, the model has {[rows, columns]}")


def _factor_shapes(config: DecoderConfig, rank: int, linear: str, parts: tuple[str, ...]) -> Shapes:
    rows, columns = sum(part_shape(config, part)[0] for part in parts), part_shape(config, parts[0])[1]
    shapes = ((rows, rank), (columns, rank))
    return {f"{linear}.{factor}": shape for factor, shape in zip(LOW_RANK_FACTORS, shapes, strict=True)}


def _stored_shapes(
    config: DecoderConfig, quantization: Quantization, name: str, parts: tuple[str, ...]
) -> Shapes:
    rows, columns = sum(part_shape(config, part)[0] for part in parts), part_shape(config, parts[0])[1]
    if quantization.group_size is not None and columns % quantization.group_size:
        raise LoadError(f"{name}: rows of {columns} do not divide into groups of {quantization.group_size}")
    if quantization.scheme in PHASE_SCHEMES:
        _check_halves(name, parts, rows, columns)
    if quantization.storage is Storage.PHASES:
        check_columns(name, columns)
        planes = PHASE_SCHEMES[quantization.scheme]
        return {name: (planes * rows, columns // COLUMNS_OF_BYTE), f"{name}_scale": (planes, 4)}
    if quantization.storage is Storage.PACKED_INPUTS:
        assert quantization.group_size is not None
        return {name: (rows, columns // 4), f"{name}_scale": (rows, columns // quantization.group_size)}
    if quantization.storage is Storage.PACKED_WORDS:
        in_word = 32 // quantization.bits
        if columns % in_word:
            raise LoadError(f"{name}: rows of {columns} do not fill whole words of {in_word} codes")
        groups = columns // quantization.group_size if quantization.group_size else 1
        shapes: Shapes = {
            f"{name}_packed": (rows, columns // in_word),
            f"{name}_scale": (rows, groups),
            f"{name}_shape": (2,),
        }
        if quantization.has_zeros:
            shapes[f"{name}_zero_point"] = (-(-rows // NIBBLES_PER_WORD), groups)
        return shapes
    if quantization.storage is Storage.PACKED_ROWS:
        if rows % 4:
            raise LoadError(f"{name}: {rows} rows are not a multiple of 4, as row blocks need")
        return {name: (rows // 4, columns), f"{name}_scale": (1,)}
    return {name: (rows, columns)}


def _check_halves(name: str, parts: tuple[str, ...], rows: int, columns: int) -> None:
    """Raises LoadError where a matrix of the model is no widely linear map of its own."""
    if len(parts) > 1:
        raise LoadError(
            f"{name} holds {' and '.join(parts)}, whose rows complex weights pair with each other's: they "
            "cannot be taken apart"
        )
    if rows % 2 or columns % 2:
        raise LoadError(f"{name} is {rows} x {columns}: complex weights have halves of rows and of columns")
    check_summed(name, columns)
