"""What the steering benchmark trains on: four domains, noise, a probe, a test, models from nothing."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import torch
import transformers

import bitnet_arch
from data_handler import SourceConfig, token_block
from data_handler.small_tokenizer import small_tokenizer
from wrinklefree.held_out import mean_loss

DOMAINS = {
    "fineweb": "fineweb",
    "openstax": "openstax",
    "code": "code_python_stdlib",
    "math": "math_latex",
}
"""Name of a source -> its folder in `pretrain`."""
NOISE = "noise"
FLOOR = 0.05
"""Least share of a source."""
LENGTH_TOKENS = 128
NUM_TOKENS = 2048
"""Of the vocabulary."""
PIECE, PROBE_PIECES = 700, 60
"""Characters of a document; documents of each domain in the probe."""
TEST_TOKENS = 8192
"""Of each domain."""


class Material:
    """Files below `folder`: each domain, noise, probe and test; a model from nothing for each seed."""

    def __init__(self, data: Path, folder: Path, hidden: int) -> None:
        self.data, self.folder, self.hidden = data, folder, hidden
        folder.mkdir(parents=True, exist_ok=True)
        draw, letters = random.Random(0), "abcdefghijklmnopqrstuvwxyz     "
        texts = {
            name: _texts(data / "pretrain" / place / "train.jsonl.gz") for name, place in DOMAINS.items()
        }
        read = [text for found in texts.values() for text in found[:60]]
        self.tokenizer = small_tokenizer(read, NUM_TOKENS, bos="<s>")
        texts[NOISE] = ["".join(draw.choices(letters, k=3000)) for _ in range(1500)]
        self.train = {n: _write(folder / f"{n}.jsonl", _pieces(found)) for n, found in texts.items()}
        probe, self.test = list[str](), dict[str, str]()
        for name, place in DOMAINS.items():
            held_out = _texts(data / "pretrain" / place / "validation.jsonl.gz")
            probe += _pieces(held_out[0::2])[:PROBE_PIECES]
            self.test[name] = _write(folder / f"test_{name}.jsonl", _pieces(held_out[1::2]))
        draw.shuffle(probe)
        self.probe = _write(folder / "probe.jsonl", probe)

    def model(self, seed: int) -> Path:
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=self.hidden,
            intermediate_size=3 * self.hidden,
            num_hidden_layers=4,
            num_attention_heads=self.hidden // 32,
            num_key_value_heads=self.hidden // 32,
            max_position_embeddings=2 * LENGTH_TOKENS,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
        )
        folder = self.folder / f"model_{seed}"
        transformers.utils.logging.disable_progress_bar()
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def test_losses(self, checkpoint: Path) -> dict[str, float]:
        """Nats a token by domain."""
        model = bitnet_arch.load_checkpoint(checkpoint, dtype=torch.float32).model.eval()
        found = {}
        for name, path in self.test.items():
            source = SourceConfig("path", name, path, repeat=False)
            ids = token_block(
                [source], self.tokenizer, TEST_TOKENS, LENGTH_TOKENS, least_tokens=LENGTH_TOKENS
            )
            loss = mean_loss(model, ids)
            assert loss is not None
            found[name] = loss
        return found


def _texts(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def _pieces(texts: list[str]) -> list[str]:
    return [text[start : start + PIECE] for text in texts for start in range(0, len(text), PIECE)]


def _write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)
