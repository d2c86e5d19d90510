"""Conversations that a model writes: their form, what is left out, what is refused."""

from __future__ import annotations

import gzip
import itertools
import json
import re
from pathlib import Path

import pytest
import torch
import transformers

import bitnet_arch
from data_handler.errors import DataRequestError
from wrinklefree import self_chat
from wrinklefree.errors import RunError


@pytest.fixture(scope="module")
def packaged() -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    model, tokenizer = bitnet_arch.load_dense("packaged", dtype=torch.float32)
    return model, tokenizer


@pytest.fixture(scope="module")
def small(
    packaged_model_dir: Path,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """Two layers of it, which write anything."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        packaged_model_dir, num_hidden_layers=2, dtype=torch.float32
    )
    return model.eval(), transformers.AutoTokenizer.from_pretrained(packaged_model_dir)


@pytest.fixture
def loaded(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's model, loaded once."""
    monkeypatch.setattr(self_chat, "load_dense_model", lambda *_: small)


def test_a_conversation_opens_as_the_template_does_and_no_turn_ends_it(small) -> None:
    model, tokenizer = small
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def seldom_end(_module: object, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor:
        logits[:, -1, end] = -1e3
        logits[::2, -1, end] *= -1 if next(counted) % 4 == 3 else 1
        return logits

    counted = itertools.count()
    hook = model.lm_head.register_forward_hook(seldom_end)
    texts = next(self_chat.write_conversations(model, tokenizer, 12, 4, seed=1))
    hook.remove()
    opening = self_chat.opening(tokenizer)
    assert opening.endswith("<|im_start|>user\n")
    assert len(texts) > 1
    assert all(text.startswith(opening) for text in texts)
    turns = [text.removeprefix(opening).count("<|im_end|>") for text in texts]
    assert set(turns) == {0, 3}, "every second one ended its turn thrice, and went on"


@pytest.mark.slow
def test_the_real_model_takes_turns(packaged) -> None:
    model, tokenizer = packaged
    opening = self_chat.opening(tokenizer)
    assert opening.endswith("<|im_start|>user\n")
    texts = next(self_chat.write_conversations(model, tokenizer, 32, 8, seed=1))
    assert len(texts) > 4
    assert all(text.startswith(opening) for text in texts)
    assert any("<|im_end|>\n<|im_start|>assistant\n" in text for text in texts)


def test_the_seed_decides_what_is_written(small) -> None:
    model, tokenizer = small
    texts, again, other = (
        next(self_chat.write_conversations(model, tokenizer, 6, 2, seed)) for seed in (1, 1, 2)
    )
    assert again == texts != other


def test_answers_stand_behind_their_questions(packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = packaged
    asked = ["Name a color.", "What is the capital of France, and why is it known all over the world?"]
    questions = [[{"role": "user", "content": text}] for text in asked]

    def answers(questions: list[list[dict[str, str]]], temperature: float) -> list[str]:
        (texts,) = self_chat.write_answers(model, tokenizer, questions, 12, 2, temperature, seed=0)
        begins = [
            f"<|im_start|>user\n{q[0]['content']}<|im_end|>\n<|im_start|>assistant\n" for q in questions
        ]
        return [text.partition(begin)[2] for text, begin in zip(texts, begins, strict=True)]

    first, second = answers(questions, 1e-5)
    assert "Paris" in second
    assert "<|im_" not in second  # cut off: its turn does not end
    assert answers(questions[:1], 1e-5) == [first]  # what fills up a row changes nothing
    monkeypatch.setattr(model.generation_config, "eos_token_id", tokenizer.convert_tokens_to_ids("."))
    ended = answers(questions, 1e-5)[1]
    assert ended == second.partition(".")[0] + "<|im_end|>\n"


def test_a_question_too_long_for_the_context_is_named(small) -> None:
    model, tokenizer = small
    questions = [[{"role": "user", "content": "word " * 40}]]
    with pytest.raises(DataRequestError, match="lower --tokens, or leave the question out"):
        next(self_chat.write_answers(model, tokenizer, questions, 8170, 1, temperature=1.0, seed=0))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [(list(range(50)), False), ([7, 8] * 25, True), ([*range(20), *[5] * 40], True), ([1, 2], False)],
)
def test_loops_are_found(ids: list[int], expected: bool) -> None:
    assert self_chat.is_loop(ids) is expected


def test_the_command_line(loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "chat.jsonl.gz"
    arguments = ["--output", str(output), "--conversations", "3", "--batch-size", "2", "--tokens", "8"]
    assert self_chat.main([*arguments, "--dtype", "float32"]) == 0
    records = [json.loads(line) for line in gzip.decompress(output.read_bytes()).splitlines()]
    assert 1 <= len(records) <= 4
    assert all(record["text"].startswith("<|im_start|>") for record in records)
    assert f"{len(records)} conversations of 8 tokens" in capsys.readouterr().out


def test_prompts_of_a_file_are_answered_once_each(loaded, tmp_path: Path) -> None:
    prompts, output = tmp_path / "asked.jsonl", tmp_path / "answers.jsonl"
    records = [{"instruction": "Say hello.", "output": said} for said in ("no", "other")]
    prompts.write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = ["--prompts", str(prompts), "--format", "instruction", "--output", str(output)]
    assert self_chat.main([*arguments, "--tokens", "6", "--dtype", "float32"]) == 0
    (record,) = map(json.loads, output.read_text().splitlines())
    assert "<|im_start|>user\nSay hello.<|im_end|>" in record["text"]


@pytest.mark.parametrize(
    ("records", "format_", "code", "message"),
    [
        ('{"messages": [{"role": "system"}]}\n', "chat", 1, "line 1"),
        ('{"messages": [{"role": "user", "content": "A"}]}\n', "text", 1, "line 1"),
        ('{"text": ""}\n', "text", 2, "no record of .* begins with a question"),
        (None, "text", 2, "there is no text file"),
    ],
)
def test_prompts_that_ask_nothing_are_refused(
    records: str | None,
    format_: str,
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts, output = tmp_path / "asked.jsonl", tmp_path / "answers.jsonl"
    if records is not None:
        prompts.write_text(records)
    with pytest.raises(SystemExit) as ended:
        self_chat.main(["--prompts", str(prompts), "--format", format_, "--output", str(output)])
    assert ended.value.code == code
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [(["--temperature", "0"], "give more than 0"), (["--device", "cuda"], "finds no GPU")],
)
def test_options_that_cannot_be_are_refused(
    option: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        self_chat.main(["--output", str(tmp_path / "chat.jsonl"), *option])
    assert message in capsys.readouterr().err


def test_a_model_without_chat_template_is_refused(small, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tokenizer = small
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
