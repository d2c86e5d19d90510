"""One small real model in three forms, and data folders of a few records."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

TEXT = (
    "The cat sat on the mat, and the dog lay by the fire. In 1905 Albert Einstein published four "
    "papers that changed physics: on the photoelectric effect, Brownian motion, special "
    "relativity and the equivalence of mass and energy.\n\nDéjà vu: 猫 sat on the mat again."
)


@pytest.fixture(scope="session")
def small_model(packaged_model_dir: Path) -> tuple[Any, Any]:
    """The weights of `small_gguf` as transformers reads the packaged model's: (model, tokenizer).

    From the folder of it, not from the file: transformers parses its vocabulary three times, 5 s each.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(packaged_model_dir, num_hidden_layers=2, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(packaged_model_dir)


@pytest.fixture(scope="session")
def small_hf(small_model: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Hugging Face folder of it."""
    folder = tmp_path_factory.mktemp("hf") / "two-layers"
    for part in small_model:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_checkpoint(small_model: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint (one scale per tensor, SubLN) that stock transformers reads too."""
    import copy

    import torch

    import bitnet_arch

    model, tokenizer = small_model
    config = bitnet_arch.ConversionConfig(bitnet_arch.quantizer("tensor"), sub_norm=True)
    ids = torch.tensor([tokenizer(TEXT).input_ids * 8])  # calibration wants 512 tokens
    converted = bitnet_arch.convert(copy.deepcopy(model), config, ids)
    folder = tmp_path_factory.mktemp("checkpoint") / "final"
    bitnet_arch.save_checkpoint(converted, tokenizer, folder, {"stage": "stage1"})
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two documents, 130 tokens."""
    path = tmp_path_factory.mktemp("text") / "text.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for text in (TEXT, "", TEXT.lower()):
            file.write(json.dumps({"text": text}) + "\n")
    return path


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three records for each of our tasks, with the hub's field names."""
    folder = tmp_path_factory.mktemp("data")
    piqa = {"goal": "cut bread", "sol1": "Use a knife.", "sol2": "Use a spoon.", "label": 0}
    arc = {
        "question": "Which animal can fly?",
        "choices": {"text": ["a cat", "an eagle", "a dog"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    }
    hellaswag = {
        "activity_label": "Cooking",
        "ctx": "A man stands in a kitchen. he",
        "endings": ["cooks an egg.", "drives a car.", "swims.", "reads the sea."],
        "label": "0",
    }
    lambada = {"text": "The sun rises in the east and sets in the west"}
    records = {
        "piqa/validation": [piqa, piqa | {"label": 1}, piqa],
        "arc_easy/test": [arc, arc | {"answerKey": "C"}, arc],
        "hellaswag/validation": [hellaswag, hellaswag | {"label": "2"}, hellaswag],
        "lambada_openai/test": [lambada, {"text": "one two three four five six seven"}, lambada],
    }
    for name, rows in records.items():
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir()
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder
