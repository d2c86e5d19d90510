"""A card says what was recorded and measured, and nothing else; its commands are real."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import typer
from huggingface_hub import ModelCardData, metadata_load
from typer.testing import CliRunner

from wf_converter.card import Card, make_record, read_card
from wf_converter.card_record import BaseModel, CardRecord, FileEntry, License, TextScore
from wf_converter.card_text import card_of
from wf_converter.checkpoint import open_checkpoint
from wf_converter.command import command_line
from wf_converter.export import export
from wf_converter.gguf_export import prepare_gguf
from wf_converter.publish import publish
from wf_formats.digests import model_sha256
from wrinklefree_inference.cli import app as inference

COMMANDS = {"export": export, "publish": publish}
NAME = "me/model"


def run(command: str, *arguments: object) -> Any:
    return CliRunner().invoke(command_line(COMMANDS[command]), [str(argument) for argument in arguments])


def refused(done: Any) -> str:
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    (line,) = [text for text in done.stderr.splitlines() if text.startswith(("error: ", "refused: "))]
    return line


@pytest.fixture(scope="module")
def made(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, model.gguf beside its card)."""
    source = checkpoint("llama-group64")
    model = tmp_path_factory.mktemp("made") / "model.gguf"
    done = run("export", "--checkpoint", source, "--output", model, "--license", "mit")
    assert done.exit_code == 0, done.output
    return source, model


@pytest.fixture
def pair(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same as copies to change."""
    source = Path(shutil.copytree(made[0], tmp_path / "runs" / "stage2" / "final"))
    model = Path(shutil.copytree(made[1].parent, tmp_path / "export")) / "model.gguf"
    return source, model


@pytest.fixture
def record(made: tuple[Path, Path]) -> CardRecord:
    return read_card(made[1]).record


def change_meta(folder: Path, **values: Any) -> None:
    path = folder / "wrinklefree.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def front_matter(text: str, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "card.md"
    path.write_text(text)
    found = metadata_load(path)
    assert found is not None
    ModelCardData(**found)  # as the hub's client reads it
    return found


def test_a_card_of_little_says_little(made: tuple[Path, Path], tmp_path: Path) -> None:
    source, model = made
    text = model.with_name("model.card.md").read_text()
    found = front_matter(text, tmp_path)
    assert found["license"] == "mit"
    assert found["library_name"] == "gguf"
    assert "ternary" in found["tags"]
    for unknown in ("base_model", "base_model_relation", "language", "datasets", "model-index"):
        assert unknown not in found
    assert "Proof of the export" not in text
    assert "What came before the first line is not recorded" in text
    assert "None" not in text
    assert str(source.parent) not in text


def test_sizes_are_those_of_the_file(made: tuple[Path, Path], record: CardRecord) -> None:
    sizes = record.sizes
    quantized = sum(
        math.prod(tensor.shape) for tensor in prepare_gguf(made[0]).tensors if tensor.is_quantized
    )
    assert sizes.num_weights == quantized
    assert sizes.num_embedding_weights == 512 * 256
    assert sizes.embedding_bytes == 2 * 512 * 256  # f16
    assert sizes.total_bytes == made[1].stat().st_size
    rest = made[1].stat().st_size - sizes.embedding_bytes
    assert f"| bits per weight, without embeddings | {8 * rest / quantized:.2f} |" in card_of(record)
    assert record.files == [FileEntry("model.gguf", made[1].stat().st_size, record.model_sha256)]
    assert record.model_sha256 == hashlib.sha256(made[1].read_bytes()).hexdigest()


def test_a_card_is_its_own_record(made: tuple[Path, Path], record: CardRecord) -> None:
    assert card_of(record) == made[1].with_name("model.card.md").read_text()
    assert not read_card(made[1]).is_changed


def test_the_hub_s_card_tells_licence_and_language(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache, without asking anybody."""
    revision = "a" * 40
    cached = tmp_path / "cache" / "models--org--dense"
    (cached / "snapshots" / revision).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    front = "license: other\nlicense_name: my-terms\nlicense_link: https://x.test/t\nlanguage: [en, de]"
    (cached / "snapshots" / revision / "README.md").write_text(f"---\n{front}\n---\n# Dense\n")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    source, model = pair
    change_meta(source, source={"source": "hub", "name": "org/dense", "revision": revision})
    done = run("export", "--checkpoint", source, "--output", model, "--overwrite")
    assert done.exit_code == 0, done.output
    text = model.with_name("model.card.md").read_text()
    found = front_matter(text, tmp_path)
    assert (found["license"], found["license_name"]) == ("other", "my-terms")
    assert found["license_link"] == "https://x.test/t"
    assert found["language"] == ["en", "de"]
    assert (found["base_model"], found["base_model_relation"]) == ("org/dense", "quantized")
    assert found["wrinklefree"]["base"]["revision"] == revision
    assert f"revision `{revision}`" in text


def test_a_folder_s_place_is_nobody_s_business(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, model = pair
    dense = tmp_path / "secret-project" / "dense"
    dense.mkdir(parents=True)
    (dense / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    change_meta(source, source={"source": "path", "name": str(dense)})
    folder = tmp_path / "packed"
    assert run("export", "--checkpoint", source, "--output", model, "--overwrite").exit_code == 0
    done = run("export", "--checkpoint", source, "--format", "hf", "--output", folder)
    assert done.exit_code == 0, done.output
    published = [model.with_name("model.card.md"), *folder.glob("*.json"), *folder.glob("*.md")]
    assert all("secret-project" not in path.read_text() for path in published)
    assert read_card(model).record.base == BaseModel("path", "dense")
    assert read_card(folder).record.license == License("apache-2.0")


@pytest.mark.parametrize(
    "source",
    [
        {"source": "hub", "name": "../../etc"},
        {"source": "hub", "name": 3},
        {"source": "path", "name": ["x"]},
        {"source": "hub"},
        {"source": "elsewhere", "name": "x"},
        "packaged x.gguf",
        None,
    ],
)
def test_a_source_that_says_nothing_is_left_out(pair: tuple[Path, Path], source: Any) -> None:
    change_meta(pair[0], source=source, license=3)
    record = make_record(open_checkpoint(pair[0]), pair[1])
    assert (record.base, record.license) == (None, None)
    assert "A language model with weights" in card_of(record)


def test_the_packaged_model_is_known(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, model = pair
    change_meta(source, source={"source": "packaged", "name": None})
    assert run("export", "--checkpoint", source, "--output", model, "--overwrite").exit_code == 0
    found = front_matter(model.with_name("model.card.md").read_text(), tmp_path)
    assert found["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (found["license"], found["language"]) == ("apache-2.0", ["en"])


def lay_run(folder: Path, parent: str | None, figures: dict[str, Any] | None, **values: Any) -> str:
    """What a run of training leaves around its result; returns the digest of the result's manifest."""
    fingerprint = hashlib.sha256(str(folder).encode()).hexdigest()
    change_meta(folder, fingerprint=fingerprint)
    (folder / "manifest.json").write_text(json.dumps({"files": {}, "of": str(folder)}))
    if figures is not None:
        (folder / "figures.json").write_text(json.dumps(figures))
    run_file = {"fingerprint": fingerprint, "values": {"parent": parent, **values}}
    (folder.parent / "run.json").write_text(json.dumps(run_file))
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def lay_stages(source: Path) -> Path:
    """Stage 1 beside the run of a checkpoint, which went on from it."""
    first = source.parents[1] / "stage1" / "final"
    first.mkdir(parents=True)
    (first / "wrinklefree.json").write_text(json.dumps({"format": 1, "stage": "stage1"}))
    digest = lay_run(first, None, {"steps": 0, "tokens": 4096, "seconds": 30.0})
    sources = [
        {"kind": "hub", "location": "org/text"},
        {"kind": "path", "location": str(source)},
        {"kind": "hub", "location": str(source)},
        {"kind": "packaged", "location": None},
    ]
    lay_run(source, digest, {"steps": 7, "tokens": 1234567, "seconds": 600}, **{"data.sources": sources})
    return first


def test_stages_are_followed_by_their_digests(pair: tuple[Path, Path]) -> None:
    source, model = pair
    lay_stages(source)
    record = make_record(open_checkpoint(source), model)
    assert [(one.stage, one.steps, one.tokens, one.seconds) for one in record.stages] == [
        ("stage1", 0, 4096, 30.0),
        ("stage2", 7, 1234567, 600.0),
    ]
    assert record.has_all_stages
    assert record.datasets == ["org/text"]
    text = card_of(record)
    assert "| `stage2` | training with quantization | 7 | 1,234,567 | 10.0 |" in text
    assert "What came before" not in text


@pytest.mark.parametrize("damage", ["another manifest", "another run", "no run"])
def test_stages_that_are_not_this_one_s_are_left_out(pair: tuple[Path, Path], damage: str) -> None:
    source, model = pair
    first = lay_stages(source)
    if damage == "another manifest":
        (first / "manifest.json").write_text("{}")
    elif damage == "another run":
        change_meta(source, fingerprint="0" * 64)
    else:
        (source.parent / "run.json").unlink()
    record = make_record(open_checkpoint(source), model)
    assert [one.stage for one in record.stages] == ["stage2"]
    assert not record.has_all_stages
    assert "What came before the first line is not recorded" in card_of(record)


def test_a_damaged_record_of_a_run_is_told(pair: tuple[Path, Path]) -> None:
    source, model = pair
    lay_stages(source)
    (source.parent / "run.json").write_text("{")
    done = run("publish", model, NAME, "--checkpoint", source, "--dry-run", "--no-verify")
    assert done.exit_code != 0
    assert "run.json is damaged" in done.stderr


PERPLEXITY = {
    "source": "/home/somebody/wiki|test.txt",
    "perplexity": 21.5,
    "bits_per_byte": 1.125,
    "nll": 3.07,
    "num_tokens": 4096,
    "context_tokens": 512,
    "stride_tokens": 511,
}
TASKS = {"piqa": {"acc": 0.625, "acc_stderr": 0.0125, "num_samples": 200}}


def write_report(path: Path, sha256: str, **changes: Any) -> Path:
    """As `wf eval --output` writes it."""
    values = {"model": {"path": "x", "sha256": sha256}, "perplexity": [PERPLEXITY | changes], "tasks": TASKS}
    path.write_text(json.dumps(values))
    return path


def dry(model: Path, *arguments: object) -> Any:
    return run("publish", model, NAME, "--dry-run", "--no-verify", *arguments)


def test_measured_figures_stand_beside_full_precision_s(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, model = pair
    ours = write_report(tmp_path / "ours.json", model_sha256(model))
    theirs = write_report(tmp_path / "theirs.json", "f" * 64, perplexity=11.25, bits_per_byte=0.875)
    done = dry(model, "--report", ours, "--baseline", theirs)
    assert done.exit_code == 0, done.output
    found = front_matter(done.stdout, tmp_path)
    results = found["model-index"][0]["results"]
    metrics = {metric["type"]: metric["value"] for result in results for metric in result["metrics"]}
    assert metrics == {"perplexity": 21.5, "acc": 0.625}
    row = r"| wiki\|test.txt | these files | 21.500 | 11.250 | 1.1250 | 0.8750 | 4,096 | 512 tokens, every"
    assert f"{row} 511 |" in done.stdout
    assert "| piqa | acc | these files | 0.6250 ± 0.0125 | 0.6250 | 200 |" in done.stdout
    assert "somebody" not in done.stdout
    of_checkpoint = write_report(tmp_path / "checkpoint.json", model_sha256(source))
    assert "the checkpoint, in PyTorch" in dry(model, "--report", of_checkpoint).stdout


def test_export_takes_the_checkpoint_s_figures(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, model = pair
    report = write_report(tmp_path / "eval.json", model_sha256(source))
    done = run("export", "--checkpoint", source, "--output", model, "--overwrite", "--report", report)
    assert done.exit_code == 0, done.output
    (score,) = read_card(model).record.texts
    assert (score.perplexity, score.measured_on, score.text) == (21.5, "checkpoint", "wiki|test.txt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "e" * 64}, "is of another model"),
        ({"sha256": None}, "does not say which model it measured"),
        ({"perplexity": float("nan")}, "is damaged: perplexity.0.perplexity is nan"),
        ({"perplexity": float("inf")}, "is damaged: perplexity.0.perplexity is inf"),
        ({"perplexity": -3}, "is damaged: perplexity.0.perplexity is -3"),
        ({"num_tokens": "many"}, "is damaged: perplexity.0.num_tokens is 'many'"),
    ],
)
def test_figures_of_something_else_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    model = pair[1]
    sha256 = changes.pop("sha256", model_sha256(model)) if "sha256" in changes else model_sha256(model)
    path = write_report(tmp_path / "eval.json", sha256, **changes)
    if sha256 is None:
        values = json.loads(path.read_text())
        del values["model"]["sha256"]
        path.write_text(json.dumps(values))
    line = refused(dry(model, "--report", path))
    assert words in line
    assert str(path) in line


@pytest.mark.parametrize("contents", [None, "", "[]", "{}", '{"passed": true}', "\x00", "[" * 100_000])
def test_what_is_no_report_is_refused(pair: tuple[Path, Path], tmp_path: Path, contents: str | None) -> None:
    path = tmp_path / "report.json"
    if contents is not None:
        path.write_text(contents)
    assert str(path) in refused(dry(pair[1], "--report", path))


def test_a_baseline_has_to_be_comparable(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model = pair[1]
    ours = write_report(tmp_path / "ours.json", model_sha256(model))
    theirs = write_report(tmp_path / "theirs.json", "f" * 64, context_tokens=1024)
    values = json.loads(theirs.read_text()) | {"tasks": {}}
    theirs.write_text(json.dumps(values))
    assert "no figure beside this model's" in refused(dry(model, "--report", ours, "--baseline", theirs))
    assert "is of this model itself" in refused(dry(model, "--report", ours, "--baseline", ours))


def quickstart(path: Path, **proof: Any) -> Path:
    scores = {
        name: {"perplexity": value, "bits_per_byte": 1.0, "num_tokens": 99, "context_tokens": 512}
        for name, value in (("teacher", 12.0), ("rounded", 1e7), ("calibrated", 31.5))
    }
    found = {"mean_abs_delta": 0.0125, "top1_agreement": 0.75, "max_abs_delta": 1.0}
    proved = {"passed": True, "runtime": "llama.cpp", "tokens": 256, "weights": {"num_matrices": 14}}
    proved |= {"judged": found, "as_trained": found}
    path.write_text(json.dumps({"perplexity": scores, "proof": proved | proof}))
    return path


def test_a_quickstart_s_report_tells_perplexity_and_proof(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, model = pair
    digests = {"export_sha256": model_sha256(model), "checkpoint_sha256": model_sha256(source)}
    report = quickstart(tmp_path / "report.json", **digests)
    done = run("publish", model, NAME, "--dry-run", "--report", report)  # the proof is in it
    assert done.exit_code == 0, done.output
    assert "| the checkpoint, in PyTorch | 31.500 | 12.000 |" in done.stdout
    assert "0.01250 nats" in done.stdout
    failed = quickstart(tmp_path / "report.json", **digests, passed=False)
    assert "NOT PROVED" in refused(dry(model, "--report", failed))
    other = quickstart(tmp_path / "report.json", **digests | {"checkpoint_sha256": "0" * 64})
    assert "is of another model" in refused(dry(model, "--report", other))


def test_a_card_changed_by_hand_is_published_as_it_is(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, model = pair
    path = model.with_name("model.card.md")
    path.write_text(path.read_text() + "\n## Thanks\n\nTo all.\n")
    assert "To all." in dry(model, "--overwrite-card").stdout  # which is about the hub's
    report = write_report(tmp_path / "eval.json", model_sha256(model))
    assert "was changed by hand" in refused(dry(model, "--report", report))
    anew = dry(model, "--report", report, "--checkpoint", source, "--license", "mit")
    assert anew.exit_code == 0, anew.output
    assert "To all." not in anew.stdout


def card_text(model: Path) -> str:
    return model.with_name("model.card.md").read_text()


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no card": (lambda model: model.with_name("model.card.md").unlink(), "has no card"),
    "a card of somebody": (
        lambda model: model.with_name("model.card.md").write_text("# Mine"),
        "is damaged: wrinklefree: ",
    ),
    "no YAML": (
        lambda model: model.with_name("model.card.md").write_text("---\nwrinklefree: [\n---\n"),
        "is damaged: wrinklefree: ",
    ),
    "a value": (
        lambda model: model.with_name("model.card.md").write_text(
            card_text(model).replace("num_weights: ", "num_weights: x", 1)
        ),
        "is damaged: wrinklefree.sizes.num_weights",
    ),
    "no weights": (
        lambda model: model.with_name("model.card.md").write_text(
            re.sub(r"num_weights: \d+", "num_weights: 0", card_text(model), count=1)
        ),
        "is damaged: wrinklefree.sizes.num_weights",
    ),
    "no files": (
        lambda model: model.with_name("model.card.md").write_text(
            re.sub(r"files:\n.*?  sizes", "files: []\n  sizes", card_text(model), count=1, flags=re.DOTALL)
        ),
        "is damaged: wrinklefree.files",
    ),
    "a deep card": (
        lambda model: model.with_name("model.card.md").write_text(f"---\nx: {'[' * 5000}\n---\n"),
        "is damaged: wrinklefree: ",
    ),
    "bytes": (lambda model: model.with_name("model.card.md").write_bytes(b"\xff\xfe"), "is not UTF-8"),
    "a huge card": (
        lambda model: model.with_name("model.card.md").write_bytes(b"-" * (1 << 21)),
        "more than 1048576 bytes",
    ),
    "another model": (lambda model: model.write_bytes(model.read_bytes()[:-1]), "has changed since the card"),
    "no model": (lambda model: model.unlink(), "there is no file or folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_card_that_is_not_of_the_files_is_refused(pair: tuple[Path, Path], damage: str) -> None:
    model = pair[1]
    change, words = DAMAGES[damage]
    change(model)
    line = refused(dry(model))
    assert words in line
    assert str(model) in line or "model.card.md" in line


def test_a_lost_card_is_written_anew_from_the_checkpoint(pair: tuple[Path, Path], checkpoint: Any) -> None:
    source, model = pair
    card = model.with_name("model.card.md")
    text = card.read_text()
    card.unlink()
    assert "--checkpoint FOLDER" in refused(dry(model))
    done = dry(model, "--checkpoint", source, "--license", "mit")
    assert done.exit_code == 0, done.output
    assert text[text.index("## Conversion") : text.index("## How")] in done.stdout
    other = checkpoint("llama-tensor")
    assert "is no export of" in refused(dry(model, "--checkpoint", other))


def test_a_checkpoint_is_not_an_export(pair: tuple[Path, Path]) -> None:
    assert "is no export: make one of a checkpoint with wf export" in refused(dry(pair[0]))


@pytest.mark.parametrize("format", ["gguf", "hf"])
def test_somebody_s_own_readme_is_not_replaced(pair: tuple[Path, Path], tmp_path: Path, format: str) -> None:
    source, _ = pair
    output = tmp_path / ("out.gguf" if format == "gguf" else "out")
    arguments = ["--checkpoint", source, "--output", output, "--format", format]
    if format == "hf":
        assert run("export", *arguments).exit_code == 0
    mine = output / "README.md" if format == "hf" else tmp_path / "out.card.md"
    mine.write_text("# Mine\n\nwrinklefree: x\n")
    done = run("export", *arguments, "--overwrite")
    assert mine.name in refused(done)
    assert mine.read_text().startswith("# Mine")
    assert format == "hf" or not output.exists()


def test_names_of_others_stay_text(record: CardRecord, tmp_path: Path) -> None:
    evil = "x | y\n# H <script>`[a](b)\x1b[2J---\n"
    text = card_of(
        replace(
            record,
            name=evil,
            base=BaseModel("path", evil),
            license=License("other", evil, evil),
            texts=[TextScore(evil, "export", 512, 99, 2.0, 1.0)],
        )
    )
    found = front_matter(text, tmp_path)
    assert found["wrinklefree"]["base"]["name"] == evil
    body = text[text.index("\n---\n") + 5 :]
    assert "<script>" not in body.replace(r"\<script\>", "")
    assert "\x1b" not in body
    assert "\n# H" not in body
    assert len([line for line in body.splitlines() if line.startswith("# ")]) == 1
    assert not Card(Path("x"), text, record).text.endswith("\n\n")


def test_an_adapter_is_named_in_every_command(record: CardRecord) -> None:
    adapter = FileEntry("adapter.gguf", 10, "0" * 64)
    text = card_of(replace(record, files=[*record.files, adapter], low_rank=4, repository=NAME))
    assert "hf download me/model model.gguf adapter.gguf --local-dir ." in text
    assert text.count("model.gguf --lora adapter.gguf") == 2
    assert text.count("--model model.gguf --adapter adapter.gguf") == 2
    assert "always load both" in text


def test_a_card_of_four_bits_says_nothing_of_ternary_weights(record: CardRecord) -> None:
    ternary, text = card_of(record), card_of(replace(record, scheme="int4-group64"))
    assert "Rounding to three values" in ternary
    assert "Rounding to 4 bits loses some" in text
    assert "three values" not in text
    assert "ternary" not in text


def wf_commands(text: str) -> list[list[str]]:
    """Words of each `uv run wf ...` of a card, without the first three."""
    return [shlex.split(line)[3:] for line in text.splitlines() if line.startswith("uv run wf ")]


def test_the_commands_of_a_card_have_these_options(record: CardRecord) -> None:
    adapter = FileEntry("adapter.gguf", 10, "0" * 64)
    group = typer.main.get_group(inference)
    found = wf_commands(card_of(replace(record, files=[*record.files, adapter])))
    assert [words[0] for words in found] == ["chat", "serve"]
    for name, *arguments in found:
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known


def test_the_chat_command_of_a_card_runs(made: tuple[Path, Path]) -> None:
    model = made[1]
    ((name, *arguments), _) = wf_commands(model.with_name("model.card.md").read_text())
    command = [sys.executable, "-m", "wrinklefree_inference", name, *arguments, "--prompt", "Hi"]
    done = subprocess.run(
        [*command, "--max-tokens", "2"], cwd=model.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", ["llama-tensor", "llama-group64"])
def test_the_python_of_a_folder_s_card_runs(
    checkpoint: Any, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    arguments = ["--checkpoint", checkpoint(case), "--format", "hf", "--output", tmp_path / "FOLDER"]
    assert run("export", *arguments).exit_code == 0
    text = (tmp_path / "FOLDER" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert ("wf_converter.hf_packed" in code) is (case == "llama-group64")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.strip()
