"""Documents of probe sets never reach a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_handler import (
    DataError,
    HeldOut,
    HeldOutError,
    SourceConfig,
    iter_placed_documents,
    make_loader,
    text_hash,
)
from data_handler.influence import ProbeSet, document_batches, hold_out

WriteJsonl = Callable[..., Path]


@pytest.fixture
def probe(write_jsonl: WriteJsonl) -> ProbeSet:
    texts = ["right-3  River river", "a question that nobody trains on"]
    return ProbeSet(SourceConfig("path", "questions", str(write_jsonl(texts, "questions.jsonl"))))


@pytest.fixture
def training(write_jsonl: WriteJsonl) -> SourceConfig:
    texts = [f"right-{i} river river" for i in range(40)]
    return SourceConfig("path", "text", str(write_jsonl(texts, "text.jsonl")), repeat=False)


def test_hashes_ignore_white_space_case_and_forms_of_characters() -> None:
    same = ["The \ufb01rst line", "the first\n  LINE ", "The first\u00a0line"]
    assert len(set(map(text_hash, same))) == 1
    assert text_hash("The first lines") != text_hash("The first line")
    assert text_hash("half a \ud83d character")  # which sources refuse, and other callers may have
    assert text_hash("a river") == "e3e86ebb0282db011deef356610b76a0"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.parquet"])
def test_files_of_every_kind_tell_where_a_document_is(
    name: str, tmp_path: Path, write_records: Callable[..., Path], tokenizer: Any
) -> None:
    path = tmp_path / name
    if name.endswith("txt"):
        path.write_text("one river\n\nanother river\n")
    else:
        path = write_records([{"text": "one river"}, {"text": ""}, {"text": "another river"}], name)
    probe = ProbeSet(SourceConfig("path", "p", str(path), text_unit="line"))
    assert [document.text for document in probe.documents] == ["one river", "another river"]
    word = "record" if name.endswith("parquet") else "line"
    assert probe.documents[1].where == f"{path}, {word} 3"
    assert probe.hashes == {text_hash("one river"), text_hash("another river")}


def test_packaged_text_is_a_probe() -> None:
    probe = ProbeSet(SourceConfig("packaged", "python_docs", split="validation"))
    assert probe.documents[0].where.startswith("python_docs, ")
    training = SourceConfig("packaged", "python_docs", split="train")
    probe.refuse_overlap(iter_placed_documents(training))
    with pytest.raises(HeldOutError, match=r"python_docs, .*: this document is held out .*'python_docs'"):
        probe.refuse_overlap(iter_placed_documents(SourceConfig("packaged", "python_docs", split="all")))


def test_white_space_is_nobodys_document(write_jsonl: WriteJsonl) -> None:
    probe = ProbeSet(SourceConfig("path", "p", str(write_jsonl(["a river", " \n"]))))
    probe.refuse_overlap(
        iter_placed_documents(SourceConfig("path", "t", str(write_jsonl(["  ", "another"]))))
    )


def test_an_empty_probe_is_an_error(write_jsonl: WriteJsonl) -> None:
    with pytest.raises(DataError, match="'p' is empty"):
        ProbeSet(SourceConfig("path", "p", str(write_jsonl([]))))


def test_overlap_is_refused_by_name_and_place(probe: ProbeSet, training: SourceConfig) -> None:
    with pytest.raises(HeldOutError) as caught:
        probe.refuse_overlap(iter_placed_documents(training))
    assert str(caught.value).startswith(
        f"{training.location}, line 4: this document is held out of training by "
    )
    assert "the set 'questions' (" in str(caught.value)
    assert "questions.jsonl, line 1)" in str(caught.value)
    with pytest.raises(DataError, match=r"used more than once: \['questions'\]"):
        hold_out([probe, probe])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_stops_at_a_document_of_a_probe(
    num_workers: int, probe: ProbeSet, training: SourceConfig, tokenizer: Any
) -> None:
    loader = make_loader([training], tokenizer, 16, 2, num_workers=num_workers, held_out=hold_out([probe]))
    with pytest.raises(DataError, match=r"text\.jsonl, line 4: .*the set 'questions'"):
        list(loader)


def test_a_loader_passes_over_documents_of_a_probe(
    probe: ProbeSet, training: SourceConfig, tokenizer: Any, documents_of: Callable[..., list[str]]
) -> None:
    loader = make_loader([training], tokenizer, 16, 2, held_out=hold_out([probe], drop=True))
    documents = documents_of(loader)
    assert len(documents) == 39
    assert "right-3 river river" not in documents
    skipped = loader.skipped()["text"]
    assert (skipped.records, skipped.first) == (1, (f"{training.location}, line 4",))
    everything = make_loader([training], tokenizer, 16, 2)
    order = [document for document in documents_of(everything) if document != "right-3 river river"]
    assert documents == order  # it keeps its place, so nothing else moves


def test_bad_records_stay_errors_where_only_probes_are_dropped(
    probe: ProbeSet, tmp_path: Path, tokenizer: Any
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "fine"}\n{"text": \n')
    source = SourceConfig("path", "text", str(path), repeat=False)
    with pytest.raises(DataError, match="line 2: damaged record"):
        list(make_loader([source], tokenizer, 8, 1, held_out=hold_out([probe], drop=True)))


def test_a_source_of_nothing_else_is_an_error(write_jsonl: WriteJsonl, tokenizer: Any) -> None:
    path = str(write_jsonl(["one", "two"]))
    held_out = hold_out([ProbeSet(SourceConfig("path", "p", path))], drop=True)
    with pytest.raises(DataError, match=r"no text is left .* passed over as bad or held out"):
        list(make_loader([SourceConfig("path", "text", path)], tokenizer, 8, 1, held_out=held_out))


def test_a_state_fits_what_was_held_out(probe: ProbeSet, training: SourceConfig, tokenizer: Any) -> None:
    def loader(held_out: HeldOut | None) -> Any:
        return make_loader([training], tokenizer, 16, 2, held_out=held_out)

    batches = list(loader(hold_out([probe], drop=True)))
    resumed = loader(hold_out([probe], drop=True))
    resumed.load_state_dict(batches[2]["state"])
    rest = [batch["input_ids"] for batch in resumed]
    assert all(map(torch.equal, rest, [batch["input_ids"] for batch in batches[3:]]))
    assert len(rest) == len(batches) - 3
    with pytest.raises(DataError, match="saved with held_out = "):
        loader(None).load_state_dict(batches[2]["state"])


def test_supervised_records_are_held_out(write_records: Callable[..., Path], chat_tokenizer: Any) -> None:
    records = [{"instruction": f"Name river {i}", "input": "", "output": f"River {i}"} for i in range(6)]
    source = SourceConfig(
        "path", "sft", str(write_records(records, "all.jsonl")), format="instruction", repeat=False
    )
    asked = SourceConfig("path", "asked", str(write_records(records[2:3], "one.jsonl")), format="instruction")
    probe = ProbeSet(asked)
    assert probe.documents[0].text == "Name river 2\nRiver 2"
    with pytest.raises(HeldOutError, match=r"all\.jsonl, line 3: .*'asked'"):
        list(make_loader([source], chat_tokenizer, 64, 1, held_out=hold_out([probe])))
    (batch,) = probe.batches(chat_tokenizer, 64, 4, one_document_a_row=True)
    learned = batch["input_ids"][batch["labels"] >= 0]
    assert chat_tokenizer.decode(learned) == "River 2<|im_end|>"


def test_batches_are_those_of_a_loader(probe: ProbeSet, tokenizer: Any) -> None:
    (batch,) = probe.batches(tokenizer, 64, 4)
    assert set(batch) == {"input_ids", "labels", "position_ids", "source_ids"}
    text = tokenizer.decode(batch["input_ids"][0])
    assert text.startswith("right-3  River river</s>a question that nobody trains on</s>")
    assert (batch["position_ids"] == 0).sum() == 3  # two documents and the filling


def test_a_probe_whose_files_changed_is_refused(write_jsonl: WriteJsonl, tokenizer: Any) -> None:
    path = write_jsonl(["one river"])
    probe = ProbeSet(SourceConfig("path", "p", str(path)))
    path.write_text('{"text": "another river, which is not held out"}\n')
    with pytest.raises(DataError, match="files of the probe set 'p' have changed"):
        probe.batches(tokenizer, 16, 2)


def test_a_document_a_row(tokenizer: Any, probe: ProbeSet) -> None:
    texts = ["a river " * 30, "one", "two rivers"]
    first, second = document_batches(texts, tokenizer, 12, 2)
    assert first["input_ids"].shape == (2, 12)
    assert second["input_ids"].shape == (1, 12)
    assert tokenizer.decode(first["input_ids"][0]) == tokenizer.decode(tokenizer(texts[0])["input_ids"][:12])
    assert (first["labels"][0] >= 0).sum() == 11
    length = len(tokenizer(texts[1])["input_ids"])
    assert (first["labels"][1] >= 0).sum() == length  # all tokens after the first, and the end
    (rows,) = probe.batches(tokenizer, 12, 4, one_document_a_row=True)
    assert torch.equal(
        rows["input_ids"],
        next(iter(document_batches([document.text for document in probe.documents], tokenizer, 12, 4)))[
            "input_ids"
        ],
    )
    for sizes in ((1, 4), (12, 0)):
        with pytest.raises(DataError, match="at least"):
            document_batches(texts, tokenizer, *sizes)
