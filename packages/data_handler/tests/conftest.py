"""Fixtures: a tiny tokenizer and numbered documents that can be told apart."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data_handler import PackedLoader, SourceConfig

WriteJsonl = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 tokens: pad 0, bos 1, eos 2."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["a document about rivers and numbers 0123456789"] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", bos_token="<s>", pad_token="<pad>"
    )


@pytest.fixture(scope="session")
def write_jsonl(tmp_path_factory: pytest.TempPathFactory) -> WriteJsonl:
    """(texts, name) -> file of one JSON record a line; packed if the name ends with .gz."""

    def write(texts: Iterable[str], name: str = "text.jsonl") -> Path:
        path = tmp_path_factory.mktemp("jsonl") / name
        data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


@pytest.fixture(scope="session")
def numbered(write_jsonl: WriteJsonl) -> Callable[..., SourceConfig]:
    """(name, number of documents, config fields) -> source of `name-<i>` documents of odd lengths."""

    def make(name: str, num_documents: int, **fields: object) -> SourceConfig:
        texts = [f"{name}-{i} " + "river " * (i * 7 % 23) for i in range(num_documents)]
        return SourceConfig("path", name, str(write_jsonl(texts)), **fields)

    return make


@pytest.fixture(scope="session")
def two_sources(numbered: Callable[..., SourceConfig]) -> list[SourceConfig]:
    return [numbered("left", 101), numbered("right", 57, weight=0.5)]


@pytest.fixture(scope="session")
def documents_of(tokenizer: PreTrainedTokenizerFast) -> Callable[[PackedLoader], list[str]]:
    """(loader of sources that end) -> its documents; each worker's sequences are laid end to end."""

    def read(loader: PackedLoader) -> list[str]:
        num_workers = len(loader.state_dict()["workers"])
        texts = [""] * num_workers
        for batch in loader:
            worker = (batch["state"]["turns"] - 1) % num_workers
            texts[worker] += tokenizer.decode(batch["input_ids"].flatten())
        return [document for document in "".join(texts).split("</s>") if document]

    return read


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same with ChatML."""
    chat = copy.deepcopy(tokenizer)
    chat.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    chat.chat_template = CHATML
    return chat


@pytest.fixture
def write_records(tmp_path: Path) -> Callable[..., Path]:
    """(records, name) -> file of them: .jsonl, .jsonl.gz or .parquet."""

    def write(records: list[dict[str, object]], name: str = "records.jsonl") -> Path:
        path = tmp_path / name
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
            return path
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write
