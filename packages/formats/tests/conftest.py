"""Small byte-level tokenizers in Hugging Face folders, made without transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Callable[..., Path]:
    """Factory: folder of a byte-level BPE tokenizer of 512 tokens, trained on Python's documentation.

    Arguments: name of the splitting rule; whether bos goes before a text.
    """
    import pydoc_data.topics as topics

    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from tokenizers.pre_tokenizers import ByteLevel

    from wf_formats.tokenizer.rules import rule_named

    def make(kind: str = "smollm", add_bos: bool = False) -> Path:
        rule = rule_named(kind)
        backend = Tokenizer(models.BPE(ignore_merges=rule.ignores_merges))
        backend.pre_tokenizer, backend.decoder = rule.pre_tokenizer(), decoders.ByteLevel()
        if rule.normalizes_nfc:
            backend.normalizer = normalizers.NFC()
        alphabet = ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator([*topics.topics.values()][:10], trainer)
        if add_bos:
            backend.post_processor = processors.TemplateProcessing(
                single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
            )
        folder = tmp_path / f"tokenizer-{kind}-{add_bos}"
        folder.mkdir()
        backend.save(str(folder / "tokenizer.json"))
        named = dict(
            zip(("unk_token", "bos_token", "eos_token", "pad_token"), [*SPECIAL, SPECIAL[2]], strict=True)
        )
        config = named | {"chat_template": "{{ messages }}"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    return make
