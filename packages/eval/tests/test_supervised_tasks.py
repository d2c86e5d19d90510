"""Classification and summaries asked as training asks them, of every kind of model alike."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import transformers
from typer.testing import CliRunner

from data_handler.conversations import ConversationTemplate
from data_handler.formats.classification import QNLI
from wrinklefree_eval.answers import Answer, read_answers
from wrinklefree_eval.evaluate import app
from wrinklefree_eval.opening import open_model
from wrinklefree_eval.supervised import rouge
from wrinklefree_eval.task_runner import ask_tasks

run = CliRunner().invoke
NAMES = ["cnn_dailymail", "mnli", "mnli_mismatch", "qnli", "sst2"]
PAIR = {"premise": "A man sleeps.", "hypothesis": "Nobody is awake."}
QUESTION = {"question": "Who sleeps?", "sentence": "A man sleeps on the floor."}
RECORDS: dict[str, list[dict[str, Any]]] = {
    "mnli/validation_matched": [PAIR | {"label": label} for label in (0, 1, 1)],
    "mnli/validation_mismatched": [PAIR | {"label": 2}],
    "qnli/validation": [QUESTION | {"label": 0}, QUESTION | {"label": 1, "question": "Why?"}] * 2
    + [QUESTION | {"label": 1}],
    "sst2/validation": [{"sentence": "a joy", "label": 1}, {"sentence": "a bore", "label": 0}],
    "cnn_dailymail/test": [{"article": "The sun rose. " * 90, "highlights": "The sun rose.\nIt set."}],
}


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"{name}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    for name, rows in RECORDS.items():
        write(folder, name, rows)
    return folder


@pytest.fixture(scope="module")
def asked(
    small_gguf: Path, small_hf: Path, records_dir: Path
) -> dict[str, tuple[dict[str, Any], list[Answer]]]:
    found = {}
    for kind, path in (("gguf", small_gguf), ("hf", small_hf)):
        model = open_model(path, 256, num_threads=1)
        found[kind] = ask_tasks(model.harness(2), NAMES, data_dir=records_dir)
        model.close()
    return found


def test_scores_have_standard_errors_and_the_majority(asked):
    for scores, answers in asked.values():
        assert list(scores) == NAMES
        for name in ("mnli", "qnli", "sst2"):
            assert set(scores[name]) - {"acc_stderr"} == {"acc", "majority", "num_samples"}
            given = [answer.metrics["acc"] for answer in answers if answer.task == name]
            assert scores[name]["acc"] == pytest.approx(sum(given) / len(given))
        assert (scores["mnli"]["majority"], scores["qnli"]["majority"]) == (2 / 3, 3 / 5)
        assert scores["mnli"]["acc_stderr"] >= 0
        assert set(scores["cnn_dailymail"]) >= {"rouge1", "rouge2", "rougeLsum", "num_samples"}
        assert "majority" not in scores["cnn_dailymail"]


def test_every_kind_answers_alike(asked):
    for left, right in zip(asked["gguf"][1], asked["hf"][1], strict=True):
        assert (left.key, left.item, left.wanted) == (right.key, right.item, right.wanted)
        assert left.answer == right.answer
        if right.logprobs is not None:
            assert left.logprobs == pytest.approx(right.logprobs, abs=0.05)


def test_the_answer_is_the_likeliest_word_after_the_prompt_of_training(asked, small_model):
    """By transformers alone: the log-probabilities of the words in the template that training uses."""
    import torch

    model, tokenizer = small_model
    template = ConversationTemplate.of(tokenizer)
    answers = [answer for answer in asked["hf"][1] if answer.task == "qnli"]
    for record, answer in zip(RECORDS["qnli/validation"], answers, strict=True):
        prompt = template.prompt(QNLI.question(record))
        scores = {}
        for word in QNLI.words:
            ids = tokenizer(prompt + word, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                scores[word] = model(ids).logits[0, -2].log_softmax(-1)[ids[0, -1]].item()
        found = answer.logprobs
        assert found is not None
        assert found == pytest.approx(scores, abs=1e-3), "the template's last line feed is none of the answer"
        assert answer.answer == max(scores, key=scores.__getitem__)
        assert answer.wanted == QNLI.words[record["label"]]
        assert answer.metrics["acc"] == (answer.answer == answer.wanted)


def test_rouge_by_hand():
    """ROUGE-1: of 4 and 5 words 3 are common; ROUGE-2: of 3 and 4 pairs 2."""
    found = rouge({"highlights": "the cat sat down"}, ["the cat sat on it"])
    assert found["rouge1"] == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert found["rouge2"] == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert rouge({"highlights": "a b\nc d"}, ["c d\na b"])["rougeLsum"] == 1
    assert rouge({"highlights": "running cats"}, ["run cat"])["rouge1"] == 1, "stems are compared"
    assert set(rouge({"highlights": "a"}, [""]).values()) == {0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (QUESTION | {"label": 2}, r"validation\.jsonl\.gz, line 2: field 'label' holds int \(2\); one of 0"),
        ({"question": "Who?", "label": 0}, "line 2: no field 'sentence'"),
    ],
)
def test_records_that_do_not_fit_are_named_before_the_model_is_loaded(
    row: dict[str, Any], message: str, tmp_path: Path
):
    write(tmp_path, "qnli/validation", [QUESTION | {"label": 0}, row])
    (tmp_path / "no.gguf").write_bytes(b"GGUF")
    arguments = ["--model-path", str(tmp_path / "no.gguf"), "--tasks", "qnli", "--data-dir", str(tmp_path)]
    result = run(app, arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert re.search(message, line), line


def test_a_model_without_a_chat_template_is_refused(
    small_model, records_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model, tokenizer = small_model
    bare = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|im_end|>"
    )
    for part in (model, bare):
        part.save_pretrained(tmp_path / "bare")
    options = f"--tasks sst2 --data-dir {records_dir} --context 128 --threads 1"
    result = run(app, f"--model-path {tmp_path / 'bare'} {options}")
    assert result.exit_code == 2
    assert "has no chat template" in result.stderr


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_a_context_without_room_for_the_prompt_is_refused(
    kind: str, records_dir: Path, request: pytest.FixtureRequest
):
    path = request.getfixturevalue(f"small_{kind}")
    options = f"--tasks cnn_dailymail --data-dir {records_dir} --context 100 --threads 1"
    result = run(app, f"--model-path {path} {options}")
    assert result.exit_code == 2, result.output
    assert "set --context higher" in result.stderr


def test_answers_are_written_and_replace_nothing_else(
    small_checkpoint: Path, records_dir: Path, tmp_path: Path
):
    answers = tmp_path / "new" / "answers.jsonl"
    options = f"--tasks sst2,mnli --data-dir {records_dir} --context 128 --threads 1 --answers"
    for _ in range(2):
        result = run(app, f"--model-path {small_checkpoint} {options} {answers}")
        assert result.exit_code == 0, result.output
    found = read_answers(answers)
    assert Counter(answer.task for answer in found) == {"sst2": 2, "mnli": 3}
    assert found[0].logprobs is not None
    assert found[0].logprobs.keys() == {"Positive", "Negative"}
    assert "majority" in result.stdout
    (tmp_path / "thesis.txt").write_text("keep")
    result = run(app, f"--model-path /nowhere {options} {tmp_path / 'thesis.txt'}")
    assert (result.exit_code, (tmp_path / "thesis.txt").read_text()) == (2, "keep")
    result = run(app, f"--model-path /nowhere --text x.txt --answers {answers}")
    assert result.exit_code == 2
    assert "give --tasks" in result.stderr


def test_the_shared_sets_are_read(small_gguf: Path, shared_data: Path):
    model = open_model(small_gguf, 512, num_threads=1)
    scores, _ = ask_tasks(
        model.harness(1), ["qnli", "mnli", "mnli_mismatch"], data_dir=shared_data / "eval", limit=2
    )
    model.close()
    assert all(found["num_samples"] == 2 for found in scores.values())
