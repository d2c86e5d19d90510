"""A folder of sampled targets: what a teacher drew for each token of each sequence.

    cache.json             temperature, draws, vocabulary, sequence length, which teacher
    tokenizer/             the teacher's
    targets_00000.safetensors
        keys  [sequences, 16] uint8           digest of ids and positions: where a sequence is found
        draws [sequences, tokens, n] uint16   ids; [..., n, 3] uint8, low byte first, above 65,536 tokens

A token takes 24 bytes with 12 draws, 36 with a vocabulary above 65,536; weights are 1 / n each. Sequences are
found by content, so that the order, the batch and the number of processes may be others than when written.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wf_formats.atomic import atomic_file
from wf_formats.content import file_digest
from wrinklefree.capture import View
from wrinklefree.errors import RunError

FACTS_FILE = "cache.json"
TOKENIZER_FOLDER = "tokenizer"
_SHARDS = "targets_*.safetensors"
_SHORT_VOCABULARY = 2**16


@dataclass(frozen=True)
class CacheFacts:
    """teacher: its source and name."""

    temperature: float
    num_draws: int
    vocab_size: int
    sequence_length_tokens: int
    teacher: str


def sequence_keys(view: View) -> list[bytes]:
    """16 bytes for each sequence of a batch."""
    both = torch.stack([view["input_ids"], view["position_ids"]], dim=1).cpu().numpy()
    return [hashlib.sha256(sequence.astype("<i8").tobytes()).digest()[:16] for sequence in both]


def read_facts(folder: Path) -> CacheFacts:
    """Raises: RunError for a folder that holds no cache."""
    try:
        return CacheFacts(**json.loads((folder / FACTS_FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{folder} holds no cached targets ({FACTS_FILE}: {error}); write some with "
            "packages/distillation/scripts/cache_teacher.py"
        ) from error


def content_digests(folder: Path) -> dict[str, str]:
    """Of facts ("") and shards ("00000", in their order), so that a cache that grew has those of before and
    more; of no cache none. The tokenizer is compared token by token instead. Raises: OSError.
    """
    if not (folder / FACTS_FILE).is_file():
        return {}
    shards = {f"{number:05d}": file_digest(path) for number, path in enumerate(shard_files(folder))}
    return {"": file_digest(folder / FACTS_FILE), **shards}


def shard_files(folder: Path) -> list[Path]:
    """In the order in which they were written."""
    return sorted(folder.glob(_SHARDS))


class TargetCache:
    """The shards of a folder, memory-mapped. Raises: RunError for one that is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.facts = folder, read_facts(folder)
        self._shards: list[Any] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        for path in shard_files(folder):
            self._add(path)

    def _add(self, path: Path) -> None:
        try:
            shard = safe_open(path, framework="pt")
            keys = shard.get_tensor("keys").numpy()
        except SafetensorError as error:
            raise RunError(
                f"{path} is damaged ({error}); remove it, and the cache_teacher.py command that made it "
                "writes it again"
            ) from error
        for row, key in enumerate(keys):
            self._places[key.tobytes()] = (len(self._shards), row)
        self._shards.append(shard)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def draws(self, key: bytes) -> Tensor:
        """Ids [tokens, draws], int64. Raises: KeyError."""
        shard, row = self._places[key]
        stored = self._shards[shard].get_slice("draws")[row]
        return stored.long() if stored.dim() == 2 else (stored.long() << torch.tensor([0, 8, 16])).sum(-1)

    def write(self, keys: list[bytes], draws: Tensor) -> None:
        """A further shard, of draws [sequences, tokens, n], or one that is missing."""
        names = (_SHARDS.replace("*", f"{number:05d}") for number in count())
        path = next(path for name in names if not (path := self.folder / name).exists())
        tensors = {"keys": torch.tensor([list(key) for key in keys], dtype=torch.uint8)}
        tensors["draws"] = self._packed(draws).contiguous()
        with atomic_file(path) as file:
            save_file(tensors, file)
        self._add(path)

    def _packed(self, draws: Tensor) -> Tensor:
        if self.facts.vocab_size <= _SHORT_VOCABULARY:
            return draws.to(torch.uint16)
        return (draws.unsqueeze(-1) >> torch.tensor([0, 8, 16]) & 255).to(torch.uint8)


def facts_as_json(facts: CacheFacts) -> dict[str, Any]:
    return asdict(facts)
