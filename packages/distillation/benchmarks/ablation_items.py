"""The items of a task, divided once: to train on, to choose learning rates by, and to report.

The first two are of the training split and have no item in common; the validation split is only reported.
Which items, and in which order, depends on the sizes alone, so every arm has the same.
"""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_handler import SourceConfig, make_loader
from data_handler.packing import IGNORED_LABEL
from wf_formats.atomic import atomic_write_bytes
from wf_formats.errors import RequestError

SPLITS = {"qnli": "validation", "sst2": "validation", "mnli": "validation_matched"}
"""Task -> its file that `wf eval` asks."""
_ORDER_SEED = 0


@dataclass(frozen=True)
class Items:
    """train: a JSONL file; held_out, test: folders for `wf eval --data-dir`; num_test: items of the last."""

    train: Path
    held_out: Path
    test: Path
    num_test: int


def divide(
    task: str, data: Path, output: Path, num_train: int, num_held_out: int, num_test: int | None
) -> Items:
    """Writes the items below `output`.

    Args: data has eval/TASK or restricted/eval/TASK; num_test None: the whole split.
    Raises: RequestError for a task that is not there, or has fewer items.
    """
    train = _shuffled(_file(data, task, "train"))
    test = _shuffled(_file(data, task, SPLITS[task]))
    wanted = {
        "--items and --held-out": (num_train + num_held_out, train),
        "--eval-items": (num_test or 1, test),
    }
    for option, (count, records) in wanted.items():
        if count > len(records):
            raise RequestError(f"{option} ask for {count} items of {task}, and there are {len(records)}")
    found = Items(output / "train.jsonl", output / "held_out", output / "test", num_test or len(test))
    asked = f"{task}/{SPLITS[task]}.jsonl.gz"
    _write(found.train, train[:num_train])
    _write(found.held_out / asked, train[num_train : num_train + num_held_out])
    _write(found.test / asked, test[:num_test])
    return found


def _file(data: Path, task: str, split: str) -> Path:
    paths = [data / folder / task / f"{split}.jsonl.gz" for folder in ("eval", "restricted/eval")]
    for path in paths:
        if path.is_file():
            return path
    raise RequestError(f"--data {data}: there is no {paths[0]} and no {paths[1]}; --task {task} needs one")


def _shuffled(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    random.Random(_ORDER_SEED).shuffle(records)
    return records


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    atomic_write_bytes(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


@dataclass(frozen=True)
class Packed:
    """One pass over the training items, packed: sequences, tokens in them that are text, and labels."""

    sequences: int
    text_tokens: int
    labels: int


def pack(items: Items, task: str, tokenizer: Any, length_tokens: int) -> Packed:
    """Counts one pass. Raises: DataError for a record that does not fit a sequence."""
    source = SourceConfig("path", task, str(items.train), format=task, repeat=False)
    batches = list(make_loader([source], tokenizer, length_tokens, 1, document_ids=True))
    return Packed(
        len(batches),
        sum(int((batch["document_ids"] >= 0).sum()) for batch in batches),
        sum(int((batch["labels"] != IGNORED_LABEL).sum()) for batch in batches),
    )
