"""What a model file holds: kind, shape, sizes by type, tokenizer, and whether the native engine takes it.

Reads heads and tables only, no weights and no PyTorch: an answer in a second whatever the size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wf_converter.command import run
from wf_formats.errors import LoadError, RequestError
from wf_formats.families.block import GGUF_EMBEDDING, GGUF_HEAD, HF_EMBEDDING, HF_HEAD
from wf_formats.file_names import META_FILE, TOKENIZER_FILE
from wf_formats.matrix import INT4_BITS, TERNARY_BITS
from wf_formats.packed_codes import CODES_PER_BYTE, CODES_PER_WORD, NIBBLES_PER_WORD
from wf_formats.phases import COLUMNS_OF_BYTE
from wf_formats.schemes import INT4_SCHEMES, PHASE_SCHEMES, description

if TYPE_CHECKING:
    from wf_formats.models.hf_config import Quantization
    from wf_formats.safetensors_file import SafetensorsFolder

_EMBEDDING_NAMES = (HF_EMBEDDING, HF_HEAD, GGUF_EMBEDDING, GGUF_HEAD)
_CODES_IN = {
    "U8": {TERNARY_BITS: CODES_PER_BYTE, 1: COLUMNS_OF_BYTE},
    "I32": {TERNARY_BITS: CODES_PER_WORD, INT4_BITS: NIBBLES_PER_WORD},
}
"""Number of a type, by the bits of a code."""
_DENSE = "Hugging Face folder (dense)"
DIFFUSION = "block diffusion"
"""Fact that autoregressive models do not have."""
EMBEDDINGS, BLOCK_MATRICES = "embeddings and head", "matrices of the blocks"
_ROLES = (EMBEDDINGS, BLOCK_MATRICES, "norms, scales, biases")
"""Of tensors."""


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of one role and type."""

    role: str
    type: str
    num_tensors: int
    num_weights: int
    num_bytes: int


@dataclass(frozen=True)
class Inspection:
    """Everything that is shown; `native_engine` is "yes", or why not."""

    path: str
    kind: str
    facts: dict[str, Any]
    tensors: list[TensorGroup]
    native_engine: str


def inspect_model(path: Path) -> Inspection:
    """Facts of a GGUF file or a Hugging Face folder.

    Raises:
        UserError: neither, or damaged; the message names the file.
    """
    if not path.exists():
        raise RequestError(f"there is no file or folder {path}; check the path")
    if not (path.is_file() or path.is_dir()):
        raise RequestError(
            f"{path} is neither a file nor a folder; give a GGUF file or a Hugging Face folder"
        )
    found = _folder(path) if path.is_dir() else _gguf(path)
    return Inspection(str(path), *found, _native_engine(path, found[0], found[2]))


def _gguf(path: Path) -> tuple[str, dict[str, Any], list[TensorGroup]]:
    from wf_formats.gguf import open_gguf
    from wf_formats.models.gguf_adapter import RANK_KEY, is_adapter
    from wf_formats.models.gguf_config import gguf_diffusion

    file = open_gguf(path)
    diffusion = gguf_diffusion(file.keys)
    keys, arch = file.keys, file.keys.get("general.architecture")
    tokens = keys.get("tokenizer.ggml.tokens")
    facts = {
        "name": keys.get("general.name"),
        "architecture": arch,
        DIFFUSION: diffusion and str(diffusion),
        "blocks": keys.get(f"{arch}.block_count"),
        "hidden size": keys.get(f"{arch}.embedding_length"),
        "context tokens": keys.get(f"{arch}.context_length"),
        "vocabulary": len(tokens) if isinstance(tokens, list) else None,
        "tokenizer": keys.get("tokenizer.ggml.pre", keys.get("tokenizer.ggml.model")),
        "chat template": "yes" if "tokenizer.chat_template" in keys else "no",
        "scheme": keys.get("wrinklefree.scheme"),
        "rank of corrections": keys.get(RANK_KEY),
        "stage": keys.get("wrinklefree.stage"),
    }
    tensors = file.tensors.values()
    rows = [(_role(t.name, t.shape), t.type_name, t.num_weights, t.num_bytes) for t in tensors]
    return "GGUF adapter" if is_adapter(file) else "GGUF file", facts, _grouped(rows)


def _folder(path: Path) -> tuple[str, dict[str, Any], list[TensorGroup]]:
    from wf_formats.diffusion import BlockDiffusion, read_settings
    from wf_formats.json_file import read_json
    from wf_formats.safetensors_file import open_folder

    config, stored = read_settings(path), open_folder(path)
    diffusion = BlockDiffusion.from_settings(config)
    record_file = path / META_FILE
    record = read_json(record_file) if record_file.is_file() else {}
    conversion = _object(record.get("conversion")) or _object(record.get("export"))
    quantization = _quantization(config)
    facts = {
        "model type": config.get("model_type"),
        DIFFUSION: diffusion and str(diffusion),
        "blocks": config.get("num_hidden_layers"),
        "hidden size": config.get("hidden_size"),
        "context tokens": config.get("max_position_embeddings"),
        "vocabulary": config.get("vocab_size"),
        "quantization": _object(config.get("quantization_config")).get("quant_method"),
        "tokenizer": "yes" if (path / TOKENIZER_FILE).is_file() else f"no {TOKENIZER_FILE}",
        "scheme": conversion.get("scheme") or (quantization and quantization.scheme),
        "rank of corrections": conversion.get("low_rank"),
        "stage": record.get("stage"),
    }
    bits = TERNARY_BITS if quantization is None else quantization.bits
    rows = [
        (
            _role(name, shape),
            _type(stored.dtype(name), quantization),
            _num_weights(stored, name, bits),
            stored.raw(name).nbytes,
        )
        for name, shape in stored.shapes.items()
    ]
    return _folder_kind(record, config, quantization), facts, _grouped(rows)


def _object(value: Any) -> dict[str, Any]:
    """A JSON object; empty for anything else, which is refused where it counts."""
    return value if isinstance(value, dict) else {}


def _folder_kind(record: dict[str, Any], config: dict[str, Any], quantization: Quantization | None) -> str:
    weights = None if quantization is None else description(quantization.scheme)
    if record.get("export"):
        return f"exported folder, {weights or 'packed weights'}"
    if record.get("conversion"):
        return "training checkpoint"
    return f"Hugging Face folder, {weights or 'quantized'}" if config.get("quantization_config") else _DENSE


def _quantization(config: dict[str, Any]) -> Quantization | None:
    """None: floats, or what nothing here reads, whose packed codes count as ternary ones."""
    from wf_formats.models.hf_config import Storage, read_quantization

    try:
        found = read_quantization(config)
    except LoadError:
        return None
    return None if found.storage is Storage.VALUES else found


def _type(dtype: str, quantization: Quantization | None) -> str:
    """Of a tensor: `2-bit phases in U8` where its numbers are codes that are packed."""
    if quantization is None or dtype not in _CODES_IN:
        return dtype
    codes = "phases" if quantization.scheme in PHASE_SCHEMES else "codes"
    return f"{quantization.bits}-bit {codes} in {dtype}"


def _num_weights(stored: SafetensorsFolder, name: str, bits: int) -> int:
    """Bytes hold packed codes, both in our folders and in transformers' bitnet ones; words in others."""
    return stored.raw(name).size * _CODES_IN.get(stored.dtype(name), {}).get(bits, 1)


def _role(name: str, shape: tuple[int, ...]) -> str:
    if name in _EMBEDDING_NAMES:
        return _ROLES[0]
    return _ROLES[1] if len(shape) == 2 and not name.endswith(("scale", "zero_point")) else _ROLES[2]


def _grouped(rows: Iterable[tuple[str, str, int, int]]) -> list[TensorGroup]:
    groups: dict[tuple[str, str], list[int]] = {}
    for role, kind, num_weights, num_bytes in rows:
        totals = groups.setdefault((role, kind), [0, 0, 0])
        for index, value in enumerate((1, num_weights, num_bytes)):
            totals[index] += value
    found = [TensorGroup(role, kind, *totals) for (role, kind), totals in groups.items()]
    return sorted(found, key=lambda group: (_ROLES.index(group.role), -group.num_bytes))


def _native_engine(path: Path, kind: str, tensors: list[TensorGroup]) -> str:
    from wf_formats.models import open_model
    from wf_formats.models.gguf_model import LAYER_TYPES
    from wf_formats.models.hf_model import HfModel

    try:
        model = open_model(path, quantize_master=_none_are_read)
    except ValueError as error:
        return f"no: {error}"
    if (diffusion := model.config.diffusion) is not None and (reason := diffusion.why_not_served()):
        return f"no: {reason}"
    if isinstance(model, HfModel) and model.quantization.scheme in (*INT4_SCHEMES, *PHASE_SCHEMES):
        return "yes"
    if kind == _DENSE:
        return "only if its values are ternary already; else convert it first (wf train -s 1)"
    if {group.type for group in tensors if group.role == BLOCK_MATRICES} <= {
        kind.label for kind in LAYER_TYPES
    }:
        return "yes"
    return "yes, if its values are ternary (checked when it is loaded)"


def _none_are_read(weight: Any, scheme: str) -> Any:
    raise AssertionError("weights are not read here")


def inspect(
    model: Annotated[Path, typer.Argument(help="GGUF file or Hugging Face folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Show what a model file holds, without loading it.

    Examples:

      wf inspect model.gguf

      wf inspect outputs/mine/stage2/final --json
    """
    found = inspect_model(model)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _show(found)


def _show(found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table

    from wf_formats.printable import printable

    facts = Table(box=None, show_header=False, pad_edge=False)
    shown = {"kind": found.kind, **found.facts, "native engine": found.native_engine}
    for name, value in shown.items():
        if value is not None:
            facts.add_row(name, printable(str(value), most_chars=None))
    sizes = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("tensors", "type", "number", "weights", "MB", "bits/weight"):
        sizes.add_column(column, justify="left" if column in ("tensors", "type") else "right")
    for group in found.tensors:
        bits = 8 * group.num_bytes / max(1, group.num_weights)
        numbers = (
            str(group.num_tensors),
            f"{group.num_weights:,}",
            f"{group.num_bytes / 1e6:.2f}",
            f"{bits:.2f}",
        )
        sizes.add_row(group.role, group.type, *numbers)
    total = sum(group.num_bytes for group in found.tensors)
    sizes.add_row("total", "", str(sum(g.num_tensors for g in found.tensors)), "", f"{total / 1e6:.2f}", "")
    for table in (facts, sizes):
        Console(markup=False).print(table)


def main() -> None:
    """Entry of `python -m wf_converter.inspect`."""
    run(inspect, "python -m wf_converter.inspect")


if __name__ == "__main__":
    main()
