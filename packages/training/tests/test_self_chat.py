"""Conversations that a model writes: their form, what is left out, what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
import transformers

import bitnet_arch
from wrinklefree import self_chat
from wrinklefree.errors import RunError


@pytest.fixture(scope="module")
def packaged() -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    model, tokenizer = bitnet_arch.load_dense("packaged", dtype=torch.float32)
    return model, tokenizer


def test_a_conversation_opens_as_the_template_does_and_takes_turns(packaged) -> None:
    model, tokenizer = packaged
    opening = self_chat.opening(tokenizer)
    assert opening.endswith("<|im_start|>user\n")
    texts = next(self_chat.write_conversations(model, tokenizer, 32, 8, seed=1))
    assert len(texts) > 4
    assert all(text.startswith(opening) for text in texts)
    assert any("<|im_end|>\n<|im_start|>assistant\n" in text for text in texts)


def test_the_seed_decides_what_is_written(packaged) -> None:
    model, tokenizer = packaged
    texts, again, other = (
        next(self_chat.write_conversations(model, tokenizer, 6, 2, seed)) for seed in (1, 1, 2)
    )
    assert again == texts != other


@pytest.mark.parametrize(
    ("ids", "expected"),
    [(list(range(50)), False), ([7, 8] * 25, True), ([*range(20), *[5] * 40], True), ([1, 2], False)],
)
def test_loops_are_found(ids: list[int], expected: bool) -> None:
    assert self_chat.is_loop(ids) is expected


def test_the_command_line(packaged, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "chat.jsonl.gz"
    arguments = ["--output", str(output), "--conversations", "3", "--batch-size", "2", "--tokens", "8"]
    assert self_chat.main([*arguments, "--dtype", "float32"]) == 0
    records = [json.loads(line) for line in gzip.decompress(output.read_bytes()).splitlines()]
    assert 1 <= len(records) <= 4
    assert all(record["text"].startswith("<|im_start|>") for record in records)
    assert f"{len(records)} conversations of 8 tokens" in capsys.readouterr().out


def test_a_model_without_chat_template_is_refused(packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tokenizer = packaged
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(RunError, match="no chat template"):
        self_chat.opening(tokenizer)


def test_counts_below_one_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        self_chat.main(["--output", str(tmp_path / "chat.jsonl"), "--batch-size", "0"])
    assert "--batch-size is 0; give at least 1" in capsys.readouterr().err


def test_a_missing_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", str(tmp_path / "chat.jsonl"), "--source", "path", "--name", str(tmp_path / "no")]
    with pytest.raises(SystemExit) as ended:
        self_chat.main(arguments)
    assert ended.value.code == 2
    assert "no is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "chat.jsonl").exists()
