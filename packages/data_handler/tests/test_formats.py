"""Supervised records as conversations, and what is said of one that is not of its format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_handler import BadRecordError, DataError, DataRequestError, SourceConfig
from data_handler.formats import FORMATS, UnfitRecordError
from data_handler.readers import check_records
from data_handler.sources.opening import open_source

PAIR = {"premise": "A man sleeps.", "hypothesis": "Nobody is awake."}
QUESTION = {"question": "Who sleeps?", "sentence": "A man sleeps."}
TURNS = [{"role": "user", "content": "Hi {there}"}, {"role": "assistant", "content": " Hello \n"}]


@pytest.mark.parametrize(
    ("name", "record", "question", "answer"),
    [
        ("instruction", {"instruction": "Add.", "input": "1, 2", "output": "3\n"}, "Add.\n\n1, 2", "3"),
        ("instruction", {"instruction": "Sing.", "input": "", "output": "La"}, "Sing.", "La"),
        ("instruction", {"instruction": "Sing.", "output": "La"}, "Sing.", "La"),
        ("instruction", {"prompt": "Sing {x}.", "response": "La", "messages": []}, "Sing {x}.", "La"),
        ("instruction", {"inputs": "1 + 1?", "targets": "2"}, "1 + 1?", "2"),
        ("mnli", PAIR | {"label": 0}, "A man sleeps.", "Yes"),
        ("mnli", PAIR | {"label": 1}, "Nobody is awake.", "Maybe"),
        ("mnli", PAIR | {"label": 2, "idx": 7}, "premise", "No"),
        ("qnli", QUESTION | {"label": 0}, "Who sleeps?", "Yes"),
        ("qnli", QUESTION | {"label": 1}, "A man sleeps.", "No"),
        ("sst2", {"sentence": "{fun}", "label": 0}, "{fun}", "Negative"),
        ("sst2", {"sentence": "fun ", "label": 1}, "Review: fun\n", "Positive"),
        ("cnn_dailymail", {"article": "News.", "highlights": "Old.\nNew."}, "News.\n\n", "Old.\nNew."),
    ],
)
def test_a_record_becomes_a_question_and_an_answer(
    name: str, record: dict[str, Any], question: str, answer: str
) -> None:
    asked, said = FORMATS[name].messages(record)
    assert (asked["role"], said["role"]) == ("user", "assistant")
    assert question in asked["content"]
    if name == "instruction":
        assert question == asked["content"]
    assert said["content"] == answer


def test_messages_stay_as_they_are() -> None:
    assert FORMATS["chat"].messages({"messages": TURNS, "id": 1}) == TURNS


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("chat", {"conversations": TURNS}, r"no field 'messages'; it has \['conversations'\]"),
        (
            "chat",
            {"messages": "Hi"},
            r"'messages' holds str \('Hi'\); a list of objects with role",
        ),
        ("chat", {"messages": []}, "a list of objects"),
        ("chat", {"messages": ["Hi"]}, r"message 1 is str \('Hi'\), not an object"),
        ("chat", {"messages": [{"from": "human"}]}, "message 1 has the role NoneType, not one of"),
        ("chat", {"messages": [{"role": "bot", "content": "a"}]}, r"role str \('bot'\), not one of"),
        (
            "chat",
            {"messages": [TURNS[0], {"role": "user", "content": None}]},
            "content of message 2 is NoneType",
        ),
        ("chat", {"messages": TURNS[:1]}, "no answer to learn"),
        ("chat", {"messages": TURNS[1:]}, "an answer .* to nothing"),
        (
            "chat",
            {"messages": [TURNS[0], {"role": "assistant", "content": " "}]},
            "answer, message 2, is empty",
        ),
        ("instruction", {"text": "x"}, r"it has \['text'\]; instruction, input and output are wanted"),
        ("instruction", {"instruction": "a", "output": " \n"}, "the answer, field 'output', is empty"),
        ("instruction", {"instruction": "", "output": "a"}, "field 'instruction' is empty"),
        (
            "instruction",
            {"instruction": "a", "input": 3, "output": "a"},
            r"'input' holds int \(3\), not",
        ),
        ("instruction", {"prompt": "a"}, "no field 'response'"),
        ("mnli", PAIR | {"label": 3}, r"'label' holds int \(3\); one of 0 \(entailment\), 1 \(neut"),
        ("mnli", PAIR | {"label": -1}, r"'label' holds int \(-1\)"),
        (
            "qnli",
            QUESTION | {"label": "0"},
            r"'label' holds str \('0'\); one of 0 \(entailment\), 1 \(no",
        ),
        ("qnli", QUESTION | {"label": True}, r"'label' holds bool"),
        ("qnli", QUESTION, "no field 'label'"),
        ("qnli", {"question": "a", "label": 0}, "no field 'sentence'"),
        ("sst2", {"sentence": "", "label": 0}, "field 'sentence' is empty"),
        ("cnn_dailymail", {"article": "News.", "highlights": ""}, "the answer, field 'highlights', is empty"),
    ],
)
def test_what_does_not_fit_is_named(name: str, record: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitRecordError, match=message):
        FORMATS[name].messages(record)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_bad_record_is_found_by_file_and_line(name: str, write_records: Callable[..., Path]) -> None:
    path = write_records([QUESTION | {"label": 0}, QUESTION | {"label": 2}], name)
    place = "record 2" if name.endswith("parquet") else "line 2"
    with pytest.raises(BadRecordError, match=rf"{name}, {place}: field 'label' holds int \(2\)"):
        check_records(path, FORMATS["qnli"])


def test_lines_that_are_no_objects_and_files_without_the_columns(
    write_records: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text("[1]\n")
    with pytest.raises(BadRecordError, match=r"line 1: a JSON object is wanted, here is list"):
        check_records(tmp_path / "a.jsonl", FORMATS["qnli"])
    with pytest.raises(DataError, match=r"none of the columns \['messages'\]; it has \['text'\]"):
        check_records(write_records([{"text": "a"}], "b.parquet"), FORMATS["chat"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "glue"}, r"format is 'glue', not one of \['text', 'chat', 'instruction'"),
        ({"on_too_long": "skip"}, "on_too_long is for records, and format is 'text'"),
        ({"format": "chat", "on_too_long": "cut"}, "on_too_long is 'cut', not one of"),
        ({"format": "chat", "text_column": "messages"}, r"records have fields of their own \(messages\)"),
        ({"format": "chat", "kind": "packaged", "location": "chat"}, "packaged sources are text"),
    ],
)
def test_settings_that_contradict_the_format(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataRequestError, match=message):
        SourceConfig(**{"kind": "path", "name": "mine", "location": "a.jsonl"} | fields)


def test_text_files_have_no_records(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hi")
    with pytest.raises(DataRequestError, match=r"a\.txt holds text, and format is 'chat'"):
        open_source(SourceConfig("path", "mine", str(tmp_path / "a.txt"), format="chat"))


@pytest.mark.parametrize(
    ("name", "path", "num_records"),
    [
        ("mnli", "eval/mnli/validation_matched", 472),
        ("qnli", "eval/qnli/validation", 2732),
        ("sst2", "restricted/eval/sst2/validation", 437),
        ("cnn_dailymail", "restricted/eval/cnn_dailymail/validation", 66),
        ("chat", "sft/oasst_en_100/train", 87),
        ("chat", "sft/sgd_dialogues/validation", 200),
        ("instruction", "sft/dolly_hhrlhf/validation", 56),
        ("instruction", "sft/flan_cot/validation", 208),
        ("instruction", "sft/instruction_llms_from_scratch/validation", 44),
        ("instruction", "sft/self_instruct_human/validation", 21),
    ],
)
def test_the_shared_records_are_of_their_formats(
    name: str, path: str, num_records: int, shared_data: Path
) -> None:
    file = shared_data / f"{path}.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"{file} is not there: the restricted sets may be left out")
    reader = open_source(SourceConfig("path", "mine", str(file), format=name)).open(0, None)
    found = [FORMATS[name].messages(reader.fields(record)[1]) for record in reader]
    assert len(found) == num_records
