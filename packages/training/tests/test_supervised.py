"""Stage 2 on supervised records: the loss is a mean over the answers of a step, however they are divided."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from data_handler import SourceConfig, make_loader
from wrinklefree import datamodule
from wrinklefree.compose.composing import compose_config
from wrinklefree.datamodule import num_labels, weighted

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
STEPS = ["training.max_steps=3", "training.sequence_length_tokens=64", "training.zclip.enabled=false"]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Answers of 1 to 20 characters, so batches differ in their labels."""
    path = tmp_path / "chat.jsonl"
    rows = [[f"say {i}", "a" * (1 + i * 7 % 20)] for i in range(90)]
    path.write_text(
        "".join(
            json.dumps(
                {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
            )
            + "\n"
            for asked, said in rows
        )
    )
    return path


@pytest.fixture(scope="module")
def start(
    dense_dir: Path,
    make_cli: Any,
    byte_tokenizer: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A stage 1 whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("chatting")
    dense = Path(shutil.copytree(dense_dir, folder / "dense"))
    byte_tokenizer(TEMPLATE).save_pretrained(dense)
    run = make_cli(folder, alone=True)("stage1_subln", f"model.name={dense}")
    assert run.code == 0
    return Path(run.folder / "final")


@pytest.fixture
def chatting(cli_from_stage1: Any, start: Path) -> Any:
    """The command line that goes on from there."""
    cli_from_stage1.common += [f"model.name={start.parents[2] / 'dense'}", f"training.start_from={start}"]
    return cli_from_stage1


def source(path: Path, **fields: Any) -> str:
    more = "".join(f", {key}: {value}" for key, value in fields.items())
    return f"data.sources=[{{kind: path, name: chat, location: {path}, format: chat{more}}}]"


def test_stage_2_learns_answers(chatting: Any, start: Path, records: Path) -> None:
    run = chatting("stage2_pretrain", *STEPS, source(records), "training.learning_rate=1e-3")
    assert run.code == 0
    losses = [float(loss) for loss in run.losses.values()]
    assert losses[-1] < losses[0]
    assert run.summary["last_loss"] == pytest.approx(losses[-1])
    assert run.summary["tokens"] == 3 * 2 * 64
    assert run.summary["label_tokens"] == sum(labels_of_steps(chatting, start, records, 3))


def labels_of_steps(chatting: Any, start: Path, records: Path, count: int) -> list[int]:
    """Labels of the first batches of the run, by the records' own loader."""
    config = compose_config(chatting.arguments("stage2_pretrain", *STEPS, source(records)))
    (text,) = config.data.sources
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    batches = make_loader([text], tokenizer, 64, 2, seed=config.seed)
    return [int((batch["labels"][:, 1:] >= 0).sum()) for batch in islice(batches, count)]


def test_accumulated_passes_weigh_as_much_as_their_labels(chatting: Any, records: Path) -> None:
    """Four passes of one sequence have the loss, and make the weights, of one pass of four."""
    for name, batch_size, passes in (("one", 4, 1), ("four", 1, 4)):
        run = chatting(
            "stage2_pretrain",
            *STEPS,
            source(records),
            f"training.batch_size={batch_size}",
            f"training.accumulate_steps={passes}",
            "data.num_workers=0",
            experiment=name,
        )
        assert run.code == 0
    one, four = (chatting.folder("stage2_pretrain", name) for name in ("one", "four"))
    whole, parts = type(run)(0, one).losses, type(run)(0, four).losses
    for step, loss in whole.items():
        assert float(parts[step]) == pytest.approx(float(loss), rel=2e-5), step


def test_a_resumed_supervised_run_is_bit_equal(chatting: Any, records: Path) -> None:
    options = [*STEPS, source(records, on_too_long="skip"), "training.accumulate_steps=2"]
    options.append("training.sequence_length_tokens=40")
    options.append("training.checkpoint.every_steps=2")
    whole = chatting("stage2_pretrain", *options, experiment="whole")
    again = chatting("stage2_pretrain", *options, experiment="again")
    assert (whole.code, again.code) == (0, 0)
    shutil.rmtree(again.folder / "final")
    assert chatting("stage2_pretrain", *options, experiment="again").code == 0
    assert again.losses == whole.losses
    assert again.weights == whole.weights
    assert whole.summary["bad_records"]["chat"]["records"] > 0


def test_weights_are_shares_of_the_labels_of_all_ranks(
    monkeypatch: pytest.MonkeyPatch, records: Path, byte_tokenizer: Callable[..., Any]
) -> None:
    """Two ranks of three passes each: the weighted means make the mean over all labels."""
    chat = SourceConfig("path", "chat", str(records), format="chat")
    tokenizer = byte_tokenizer(TEMPLATE)
    loaders = [make_loader([chat], tokenizer, 64, 1, rank=rank, world_size=2) for rank in (0, 1)]
    steps = [[batch for batch, _ in zip(loader, range(3), strict=False)] for loader in loaders]
    counts = [[int(num_labels(batch["labels"])) for batch in step] for step in steps]
    assert len({count for rank in counts for count in rank}) > 2
    total = sum(map(sum, counts))
    monkeypatch.setattr(datamodule, "gather_from_ranks", lambda own: [sum(rank) for rank in counts])
    found = [[batch["label_weight"] for batch in weighted(iter(step), 3)] for step in steps]
    expected = torch.tensor(counts) * 6 / total
    torch.testing.assert_close(torch.tensor(found), expected)


def test_text_alone_has_no_weights(text_file: Path, byte_tokenizer: Callable[..., Any]) -> None:
    text = SourceConfig("path", "text", str(text_file))
    module = datamodule.WrinkleFreeDataModule([text], byte_tokenizer(), 32, 2, 4, 0, 0, accumulate_steps=2)
    assert not module.is_supervised


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "glue"}, "format is 'glue', not one of"),
        ({"on_too_long": "cut"}, "on_too_long"),
        ({"label_column": "x"}, "Unknown key|label_column"),
    ],
)
def test_wrong_settings_of_a_source_are_refused_when_composed(
    fields: dict[str, str], message: str, cli: Any, capsys: pytest.CaptureFixture[str], records: Path
) -> None:
    options = {"kind": "path", "name": "chat", "location": records, "format": "chat"} | fields
    text = ", ".join(f"{key}: {value}" for key, value in options.items())
    run = cli("stage2_pretrain", f"data.sources=[{{{text}}}]")
    assert run.code == 2
    said = capsys.readouterr().err
    assert any(part in said for part in message.split("|"))
    assert not run.folder.exists()


def test_a_model_without_a_chat_template_is_refused_by_name(
    cli_from_stage1: Any, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli_from_stage1("stage2_pretrain", *STEPS, source(records))
    assert run.code == 2
    assert "has no chat template" in capsys.readouterr().err
