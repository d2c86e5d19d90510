"""Conversations as tokens with labels at the answers, packed whole, and resumed to the bit."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from data_handler import (
    BadRecordError,
    DataError,
    DataRequestError,
    PackedDataset,
    SourceConfig,
    TooLongError,
    iter_documents,
    make_loader,
    token_block,
)
from data_handler.conversations import ConversationTemplate
from data_handler.formats import UnfitRecordError

NAMES = ("input_ids", "labels", "position_ids")
FORGETS = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
COUNTS = "{{ messages | length }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
ALTERNATES = "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + FORGETS


def with_template(tokenizer: Any, template: str | None) -> Any:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def turns(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]}


@pytest.fixture
def chats(write_records: Callable[..., Path]) -> Callable[..., SourceConfig]:
    """(conversations, name, fields) -> their source."""

    def make(records: list[dict[str, Any]], name: str = "mine", **fields: Any) -> SourceConfig:
        path = write_records(records, f"{name}.jsonl")
        return SourceConfig("path", name, str(path), **{"format": "chat", "repeat": False} | fields)

    return make


def learned(tokenizer: Any, batch: dict[str, torch.Tensor]) -> list[str]:
    """The text of each run of labels."""
    ids, labels = batch["input_ids"].flatten(), batch["labels"].flatten()
    runs: list[list[int]] = []
    for place, label in enumerate(labels.tolist()):
        if label == -100:
            continue
        assert label == ids[place]
        if place and labels[place - 1] != -100:
            runs[-1].append(label)
        else:
            runs.append([label])
    return [tokenizer.decode(run) for run in runs]


def rows(
    sources: list[SourceConfig], tokenizer: Any, seq_len: int, **options: Any
) -> dict[str, torch.Tensor]:
    (batch,) = PackedDataset(sources, tokenizer, seq_len, 64, block_documents=1, document_ids=True)
    return batch


def test_answers_alone_have_labels(
    chats: Callable[..., SourceConfig], chat_tokenizer: Any, tokenizer: Any
) -> None:
    source = chats([turns("Hi", "Hello you", "More?", " é猫\nno"), turns("rivers", "numbers")])
    batch = rows([source], chat_tokenizer, 128)
    assert learned(chat_tokenizer, batch) == [
        "Hello you<|im_end|>",
        " é猫\nno<|im_end|>",
        "numbers<|im_end|>",
    ]
    for number in (0, 1):
        document = batch["input_ids"][batch["document_ids"] == number]
        expected = chat_tokenizer.apply_chat_template(
            [turns("Hi", "Hello you", "More?", " é猫\nno"), turns("rivers", "numbers")][number]["messages"],
            return_dict=False,
        )
        assert document.tolist() == expected
        positions = batch["position_ids"][batch["document_ids"] == number]
        assert positions.tolist() == list(range(len(expected)))


def test_what_the_template_adds_to_an_answer_is_learned(
    chats: Callable[..., SourceConfig], tokenizer: Any
) -> None:
    batch = rows([chats([turns("a", "b")])], with_template(tokenizer, FORGETS), 64)
    assert learned(tokenizer, batch) == ["<think></think>b</s>"]


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (FORGETS, turns("a", "b", "c", "d"), "writes message 2 and those before it in another way"),
        (ALTERNATES, turns("a", "b", "c", "d"), "one question only"),
    ],
)
def test_a_template_that_hides_an_answer_is_refused_by_name(
    template: str,
    messages: dict[str, Any],
    message: str,
    chats: Callable[..., SourceConfig],
    tokenizer: Any,
) -> None:
    other = with_template(tokenizer, template)
    other.name_or_path = "models/forgetful"
    with pytest.raises(BadRecordError, match=rf"mine\.jsonl, line 2: .*{message}") as caught:
        rows([chats([turns("a", "b"), messages])], other, 64)
    assert "models/forgetful" in str(caught.value)
    batch = rows([chats([turns("a", "b"), messages], on_bad_record="skip")], other, 64)
    assert learned(tokenizer, batch) == ["<think></think>b</s>"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template, .*: put a chat_template.jinja"),
        (COUNTS, "cannot be trained with: .* writes message 2"),
        ("{% for %}", "cannot be trained with"),
        ("{{ raise_exception('not for you') }}", "cannot be trained with: .*not for you"),
    ],
)
def test_a_template_without_answers_is_refused_at_the_start(
    template: str | None, message: str, chats: Callable[..., SourceConfig], tokenizer: Any
) -> None:
    with pytest.raises(DataRequestError, match=message):
        make_loader([chats([turns("a", "b")])], with_template(tokenizer, template), 64, 2)


def test_the_prompt_ends_where_the_words_of_an_answer_begin(chat_tokenizer: Any, tokenizer: Any) -> None:
    asked = [{"role": "user", "content": "Yes?"}]
    expected = chat_tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert ConversationTemplate.of(chat_tokenizer).prompt("Yes?") == expected
    thinking = ConversationTemplate.of(with_template(tokenizer, FORGETS))
    assert thinking.prompt("a") == "[user]a</s>[assistant]<think></think>"


def test_a_template_sees_no_other_date_tomorrow(tokenizer: Any) -> None:
    """Llama 3.2's asks for today's where it is given none."""
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "Today: {{ date_string }}\n{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    rendered = ConversationTemplate.of(with_template(tokenizer, template)).render(turns("a", "b")["messages"])
    assert rendered.text == "Today: 26 Jul 2024\n[user]a[assistant]b"


LONG = [turns("x" * 20, "short"), turns("a b c " * 40, "the answer"), turns("q", "y" * 200), turns("c", "d")]


def test_too_long_stops_with_both_numbers_and_the_way_out(
    chats: Callable[..., SourceConfig], chat_tokenizer: Any
) -> None:
    with pytest.raises(TooLongError, match=r"line 2: \d+ tokens, and a sequence has 64; .*on_too_long: tru"):
        rows([chats(LONG)], chat_tokenizer, 64)


@pytest.mark.parametrize("option", [{"on_too_long": "skip"}, {"on_bad_record": "skip"}])
def test_too_long_is_passed_over_and_counted(
    option: dict[str, str],
    chats: Callable[..., SourceConfig],
    chat_tokenizer: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loader = make_loader([chats(LONG, **option)], chat_tokenizer, 64, 4, block_documents=1)
    (batch,) = loader
    assert learned(chat_tokenizer, batch) == ["short<|im_end|>", "d<|im_end|>"]
    skipped = loader.skipped()["mine"]
    assert skipped.records == 2
    assert [place.rpartition("/")[2] for place in skipped.first] == [
        "mine.jsonl, line 2",
        "mine.jsonl, line 3",
    ]
    assert "passed over" in caplog.text


def test_a_prompt_is_cut_from_the_left_and_an_answer_never(
    chats: Callable[..., SourceConfig], chat_tokenizer: Any
) -> None:
    source = chats(LONG[:2], on_too_long="truncate")
    batch = rows([source], chat_tokenizer, 64)
    assert learned(chat_tokenizer, batch) == ["short<|im_end|>", "the answer<|im_end|>"]
    whole = chat_tokenizer.apply_chat_template(LONG[1]["messages"], return_dict=False)
    assert batch["input_ids"][1].tolist() == whole[-64:]
    assert batch["position_ids"][1].tolist() == list(range(64))
    with pytest.raises(BadRecordError, match=r"line 3: \d+ tokens from its first answer on.*not cut; mend"):
        rows([chats(LONG, on_too_long="truncate")], chat_tokenizer, 64)


def test_bad_records_are_skipped_only_where_that_is_said(
    chats: Callable[..., SourceConfig], chat_tokenizer: Any
) -> None:
    bad = [turns("a", "b"), turns("a", " "), turns("c", "d")]
    with pytest.raises(BadRecordError, match=r"line 2: the answer, message 2, is empty.*on_bad_record: skip"):
        rows([chats(bad, on_too_long="skip")], chat_tokenizer, 64)
    half = [{"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "a"}]}]
    with pytest.raises(BadRecordError, match=r"line 1: .*half a surrogate pair"):
        rows([chats(half)], chat_tokenizer, 64)
    batch = rows([chats(bad, on_bad_record="skip")], chat_tokenizer, 64)
    assert learned(chat_tokenizer, batch) == ["b<|im_end|>", "d<|im_end|>"]


def test_filling_is_of_no_source(chats: Callable[..., SourceConfig], chat_tokenizer: Any) -> None:
    source = chats([turns("a", "b" * 9), turns("c", "d" * 9)], repeat=False)
    batches = list(make_loader([source], chat_tokenizer, 48, 1, document_ids=True))
    for batch in batches:
        is_filling = batch["document_ids"] == -1
        assert is_filling.any()
        assert torch.equal(batch["source_ids"], torch.where(is_filling, -1, 0))


def test_examples_are_whole_and_texts_fill_what_is_left(
    chats: Callable[..., SourceConfig], numbered: Callable[..., SourceConfig], chat_tokenizer: Any
) -> None:
    records = [turns(f"question {i}", "answer " * (i % 5 + 1) + str(i)) for i in range(40)]
    alone = rows([chats(records)], chat_tokenizer, 256)
    ids = alone["document_ids"]
    assert learned(chat_tokenizer, alone) == [f"{r['messages'][1]['content']}<|im_end|>" for r in records]
    for row, numbers in zip(alone["labels"], ids, strict=True):
        filled = numbers == -1
        assert (row[filled] == -100).all()
        assert numbers[~filled].tolist() == sorted(numbers[~filled].tolist())
    assert (ids[:-1] >= 0).float().mean() > 0.8
    mixed = rows([chats(records), numbered("text", 60, repeat=False)], chat_tokenizer, 256)
    answers = [text for text in learned(chat_tokenizer, mixed) if text.endswith("<|im_end|>")]
    assert sorted(answers) == sorted(learned(chat_tokenizer, alone))


@torch.inference_mode()
def test_packed_examples_have_the_loss_that_they_have_alone(
    chats: Callable[..., SourceConfig], chat_tokenizer: Any, tiny_llama: Callable[..., Any]
) -> None:
    """Cross-entropy over the answers, by the model's own loss and one conversation after the other."""
    records = [turns("a b", "c d e", "f", "g"), turns("numbers", "1 2 3"), turns("x", "rivers")]
    model = tiny_llama(vocab_size=len(chat_tokenizer))
    batch = rows([chats(records)], chat_tokenizer, 90)
    del batch["document_ids"]
    packed = model(**batch, use_cache=False).loss
    total, count = 0.0, 0
    for record in records:
        ids = chat_tokenizer.apply_chat_template(record["messages"], return_tensors="pt", return_dict=False)
        text = chat_tokenizer.apply_chat_template(record["messages"], tokenize=False)
        logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        scores = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        for message in record["messages"][1::2]:
            said = chat_tokenizer(f"{message['content']}<|im_end|>", add_special_tokens=False).input_ids
            before = text[: text.index(f"assistant\n{message['content']}") + len("assistant\n")]
            start = len(chat_tokenizer(before, add_special_tokens=False).input_ids)
            total -= scores[start - 1 : start - 1 + len(said)].sum().item()
            count += len(said)
    assert packed.item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_is_exact(
    num_workers: int,
    chats: Callable[..., SourceConfig],
    numbered: Callable[..., SourceConfig],
    chat_tokenizer: Any,
) -> None:
    """Records that are filled around, cut, too long, bad; several epochs; text between."""
    records = [turns("q " * (i % 7), "a " * (i % 11 + 1), "w", f"{i}") for i in range(50)]
    records[7], records[20] = turns("a", " "), turns("a " * 30, "b " * 200)
    sources = [
        chats(records, repeat=True, on_bad_record="skip", on_too_long="truncate", weight=2),
        numbered("text", 30),
    ]

    def make() -> Any:
        return make_loader(
            sources, chat_tokenizer, 96, 3, seed=5, num_workers=num_workers, block_documents=16
        )

    loader = make()
    whole = list(islice(loader, 30))
    assert loader.skipped()["mine"].records >= 4
    for at in (1, 2, 5, 9, 16):
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(whole[at - 1]["state"])))
        for old, new in zip(whole[at : at + 8], islice(resumed, 8), strict=True):
            assert all(torch.equal(old[name], new[name]) for name in NAMES)
            assert old["state"] == new["state"]


def test_shares_are_of_tokens(
    chats: Callable[..., SourceConfig], numbered: Callable[..., SourceConfig], chat_tokenizer: Any
) -> None:
    records = [turns(f"question {i}", f"answer {i}") for i in range(60)]
    sources = [chats(records, repeat=True, weight=3), numbered("text", 200)]
    dataset = PackedDataset(sources, chat_tokenizer, 128, document_ids=True)
    ids = torch.cat([row["input_ids"][row["document_ids"] >= 0] for row in islice(dataset, 700)])
    marker = chat_tokenizer.convert_tokens_to_ids("<|im_start|>")
    per_record = len(chat_tokenizer.apply_chat_template(records[10]["messages"], return_dict=False))
    share = (ids == marker).sum().item() / 2 * per_record / len(ids)
    assert share == pytest.approx(0.75, abs=0.03)


def test_a_state_of_another_template_or_format_is_refused(
    chats: Callable[..., SourceConfig], chat_tokenizer: Any
) -> None:
    source = chats([turns("a", "b"), turns("c", "d")])
    loader = make_loader([source], chat_tokenizer, 64, 1)
    state = loader.state_dict()
    other = with_template(chat_tokenizer, "{# another #}" + chat_tokenizer.chat_template)
    with pytest.raises(DataError, match="chat_template"):
        make_loader([source], other, 64, 1).load_state_dict(state)
    changed = SourceConfig("path", "mine", source.location, format="instruction", repeat=False)
    with pytest.raises(DataError, match="other files or columns"):
        make_loader([changed], chat_tokenizer, 64, 1).load_state_dict(state)


def test_calibration_may_cut_records(chats: Callable[..., SourceConfig], chat_tokenizer: Any) -> None:
    source = chats([turns("long " * 50, "answer " * 50)], repeat=True)
    assert token_block([source], chat_tokenizer, 600, 64).shape == (10, 64)


def test_records_are_no_plain_texts(chats: Callable[..., SourceConfig]) -> None:
    with pytest.raises(DataRequestError, match="holds 'chat' records"):
        list(iter_documents(chats([turns("a", "b")])))


def test_parquet_records_with_nested_messages(
    write_records: Callable[..., Path], chat_tokenizer: Any
) -> None:
    path = write_records([turns("a", "b") | {"id": 1}, turns("c", "d") | {"id": 2}], "a.parquet")
    source = SourceConfig("path", "mine", str(path), format="chat", repeat=False)
    assert learned(chat_tokenizer, rows([source], chat_tokenizer, 64)) == ["b<|im_end|>", "d<|im_end|>"]


def test_records_of_a_hub_data_set(write_records: Callable[..., Path], chat_tokenizer: Any) -> None:
    """A local folder of one, streamed by `datasets`."""
    path = write_records([{"sentence": "fun", "label": 1}, {"sentence": "dull", "label": 0}], "train.jsonl")
    source = SourceConfig("hub", "mine", str(path.parent), format="sst2", repeat=False)
    assert learned(chat_tokenizer, rows([source], chat_tokenizer, 400)) == [
        "Positive<|im_end|>",
        "Negative<|im_end|>",
    ]


@pytest.mark.parametrize(
    ("name", "path", "answer"),
    [
        ("chat", "sft/oasst_en_100/train", lambda r: [m["content"] for m in r["messages"][1::2]]),
        ("instruction", "sft/self_instruct_human/validation", lambda r: [r["output"].strip()]),
        ("qnli", "eval/qnli/validation", lambda r: [("Yes", "No")[r["label"]]]),
        ("mnli", "eval/mnli/validation_mismatched", lambda r: [("Yes", "Maybe", "No")[r["label"]]]),
    ],
)
def test_real_records_in_the_packaged_models_template(
    name: str, path: str, answer: Callable[[Any], list[str]], shared_data: Path, packaged_model_dir: Path
) -> None:
    file = shared_data / f"{path}.jsonl.gz"
    tokenizer = transformers.AutoTokenizer.from_pretrained(packaged_model_dir)
    source = SourceConfig("path", "mine", str(file), format=name, repeat=False, on_too_long="skip")
    batches = list(islice(PackedDataset([source], tokenizer, 2048, 1, block_documents=1), 2))
    found = [text for batch in batches for text in learned(tokenizer, batch)]
    with gzip.open(file, "rt") as lines:
        expected = [f"{text}<|im_end|>" for line in islice(lines, 400) for text in answer(json.loads(line))]
    assert len(found) > 5
    assert found == expected[: len(found)]


def test_the_template_of_a_refusing_model_names_the_place() -> None:
    template = ConversationTemplate(ALTERNATES, {"eos_token": "</s>"}, "m")
    with pytest.raises(UnfitRecordError, match=r"one question only.*\(template of m\)"):
        template.render(turns("a", "b", "c", "d")["messages"])
