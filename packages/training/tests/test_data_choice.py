"""`wf data`: the commands on small files, and what they leave when they are stopped."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import bitnet_arch
from data_handler.corpus.domains import Reading, parse_domains, parse_one
from wf_formats.errors import RequestError
from wrinklefree.compose.composing import compose_config
from wrinklefree.data_choice import scoring
from wrinklefree.data_choice.main import app
from wrinklefree.data_choice.working import working_folder

Wf = Callable[..., Result]
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def wf() -> Wf:
    """(arguments) -> what `wf data` makes of them."""
    runner = CliRunner(env={"COLUMNS": "160", "TERM": "dumb", "NO_COLOR": "1"})
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


def write(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def noise(number: int) -> str:
    generator = random.Random(number)
    return "".join(chr(generator.randrange(0x21, 0x7F)) for _ in range(150))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """exam.jsonl, good.jsonl (sentences like the exam's, its second one among them) and noise.jsonl."""
    folder = tmp_path_factory.mktemp("texts")
    exam = [f"The square of {n} is {n * n}, and the cube is {n**3}. " * 2 for n in range(100, 106)]
    good = [f"The square of {n} is {n * n}, and the cube is {n**3}. " * 2 for n in range(20)]
    write(folder / "exam.jsonl", exam)
    write(folder / "good.jsonl", [*good[:5], exam[1], *good[5:]])
    write(folder / "noise.jsonl", [noise(number) for number in range(20)])
    return folder


@pytest.fixture(scope="module")
def score_arguments(texts: Path, dense_dir: Path) -> list[Any]:
    """Of a score of all documents, but for the folder."""
    files = ["score", texts / "good.jsonl", texts / "noise.jsonl", "--probe", f"exam={texts / 'exam.jsonl'}"]
    return [*files, "--model", dense_dir, "--tokens", 64, "--documents", 100, "--blocks", 2, "--sketch", 4096]


@pytest.fixture(scope="module")
def scores(wf: Wf, score_arguments: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored") / "scores"
    done = wf(*score_arguments, "--output", folder, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["output"] == str(folder)
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def test_noise_ranks_below_text_like_the_probe(scores: Path) -> None:
    found = {name: [r["score"] for r in rows(scores) if r["domain"] == name] for name in ("good", "noise")}
    assert [len(values) for values in found.values()] == [20, 20]
    assert min(found["good"]) > max(found["noise"])
    report = json.loads((scores / "scores.json").read_text())
    assert [entry["scored"] for entry in report["domains"]] == [20, 20]
    assert report["domains"][0]["mean"] == pytest.approx(sum(found["good"]) / 20)
    assert (scores / "scores.png").read_bytes().startswith(PNG)
    assert sorted(path.name for path in scores.iterdir()) == ["scores.json", "scores.jsonl", "scores.png"]


def test_documents_of_the_probe_are_left_out_by_name(scores: Path, texts: Path) -> None:
    report = json.loads((scores / "scores.json").read_text())
    assert report["left_out"] == [f"{texts / 'good.jsonl'}, line 6"]
    assert all((row["domain"], row["line"]) != ("good", 6) for row in rows(scores))


def test_tokens_are_those_of_the_whole_document(scores: Path, texts: Path) -> None:
    """Bytes and an end: the model's tokenizer has a token a byte."""
    lines = (texts / "good.jsonl").read_text().splitlines()
    expected = {n: len(json.loads(line)["text"].encode()) + 1 for n, line in enumerate(lines, 1)}
    assert all(row["tokens"] == expected[row["line"]] for row in rows(scores) if row["domain"] == "good")


def test_a_score_goes_on_where_it_was_stopped(
    wf: Wf, score_arguments: list[Any], scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = scoring._Sketching._made

    def stopping(self: Any, candidates: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(len(candidates))
        return make(self, candidates)

    folder = tmp_path / "scores"
    monkeypatch.setattr(scoring._Sketching, "_made", stopping)
    stopped = wf(*score_arguments, "--output", folder)
    assert stopped.exit_code == 130
    assert sorted(path.name for path in folder.iterdir()) == ["sketches"]
    other = wf(*score_arguments, "--output", folder, "--seed", 1)
    assert other.exit_code == 2
    assert "parts of another request, whose seed is 0 and here 1" in other.output
    made[:] = [0]

    def counting(self: Any, candidates: Any) -> Any:
        made.append(len(candidates))
        return make(self, candidates)

    monkeypatch.setattr(scoring._Sketching, "_made", counting)
    assert wf(*score_arguments, "--output", folder).exit_code == 0
    assert made == [0, 16, 8]  # of 6 of the probe and 40 others: the probe and the first 16 were there
    assert rows(folder) == rows(scores)


def test_a_complete_score_is_replaced_only_with_force(
    wf: Wf, score_arguments: list[Any], scores: Path
) -> None:
    before = (scores / "scores.jsonl").read_bytes()
    refused = wf(*score_arguments, "--output", scores)
    assert (refused.exit_code, "has scores already" in refused.output) == (2, True)
    assert (scores / "scores.jsonl").read_bytes() == before
    assert wf(*score_arguments, "--output", scores, "--force").exit_code == 0
    assert (scores / "scores.jsonl").read_bytes() == before


def test_domains_are_ranked_by_their_mean_gradients(
    wf: Wf, score_arguments: list[Any], tmp_path: Path
) -> None:
    folder = tmp_path / "domains"
    done = wf(*score_arguments, "--by", "domain", "--estimator", "datainf", "--output", folder)
    assert done.exit_code == 0, done.output
    assert [row["name"] for row in rows(folder)] == ["good", "noise"]
    assert rows(folder)[0]["score"] > rows(folder)[1]["score"]
    refused = wf("select", folder, "--share", 0.5, "--output", tmp_path / "x.jsonl")
    assert (refused.exit_code, "scores of domains" in refused.output) == (2, True)


def test_a_short_time_scores_a_random_sample(wf: Wf, score_arguments: list[Any], tmp_path: Path) -> None:
    place = score_arguments.index("--documents")
    arguments = [*score_arguments[:place], "--minutes", "1e-6", *score_arguments[place + 2 :]]
    assert wf(*arguments, "--output", tmp_path / "scores").exit_code == 0
    found = rows(tmp_path / "scores")
    assert len(found) == 16  # one part
    assert {row["domain"] for row in found} == {"good", "noise"}


def test_a_ternary_model_scores(wf: Wf, score_arguments: list[Any], dense_dir: Path, tmp_path: Path) -> None:
    model, tokenizer = bitnet_arch.load_dense("path", str(dense_dir))
    bitnet_arch.convert(model, bitnet_arch.ConversionConfig(bitnet_arch.quantizer("group64"), sub_norm=False))
    bitnet_arch.save_checkpoint(model, tokenizer, tmp_path / "ternary", {"stage": "stage1"})
    place = score_arguments.index("--model") + 1
    arguments = [*score_arguments[:place], tmp_path / "ternary", *score_arguments[place + 1 :]]
    done = wf(*arguments, "--output", tmp_path / "scores", "--json")
    assert done.exit_code == 0, done.output
    means = {entry["name"]: entry["mean"] for entry in json.loads(done.stdout)["domains"]}
    assert means["good"] > means["noise"]


def test_files_of_the_probe_alone_leave_nothing(wf: Wf, texts: Path, dense_dir: Path, tmp_path: Path) -> None:
    exam = texts / "exam.jsonl"
    done = wf("score", f"same={exam}", "--probe", exam, "--model", dense_dir, "--output", tmp_path / "s")
    assert (done.exit_code, "all 6 documents are the probe's" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--estimator", "less"], "'less' is not one of"),
        (["--documents", "0"], "Invalid value for '--documents'"),
        (["--documents", "1", "--minutes", "1"], "both say how long"),
        (["--minutes", "-1"], "--minutes -1: give more than 0"),
        (["--minutes", "inf"], "--minutes inf: give more than 0 and at most"),
        (["--tokens", "500"], "--tokens=500, but the model's context is 256"),
        (["--model", "none"], "--model none: there is no such folder"),
        (["--probe", "none.jsonl"], "none.jsonl does not exist"),
        (["--probe", "good={exam}"], "both called 'good'"),
        (["--output", "{file}"], "give the name of a folder"),
        (["--output", "{folder}"], "in it, which is of something else"),
        (["--text-column", "body"], "no field 'body'"),
    ],
)
def test_wrong_scores_are_refused_by_name(
    wf: Wf, texts: Path, tmp_path: Path, dense_dir: Path, arguments: list[str], message: str
) -> None:
    exam = texts / "exam.jsonl"
    (tmp_path / "mine").write_text("keep")
    own = [one.format(exam=exam, file=tmp_path / "mine", folder=tmp_path) for one in arguments]
    common = ["--probe", exam, "--output", tmp_path / "out", "--model", dense_dir]
    done = wf("score", texts / "good.jsonl", *common, *own)
    assert done.exit_code == (1 if "field" in message else 2), done.output
    assert message in " ".join(done.output.replace("│", " ").split())
    assert (tmp_path / "mine").read_text() == "keep"


@pytest.mark.parametrize("name", [".mine.tmp-notes", ".scores.json.tmp-notes", ".other.json.tmp-0123abcd"])
@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_hidden_names_of_others_are_refused_and_stay(
    tmp_path: Path, name: str, is_folder: bool, force: bool
) -> None:
    (tmp_path / name).mkdir() if is_folder else (tmp_path / name).touch()
    with (
        pytest.raises(RequestError, match=f"has {name} in it, which is of something else"),
        working_folder(tmp_path, ("scores.json",), force),
    ):
        pass
    assert (tmp_path / name).is_dir() == is_folder
    assert (tmp_path / name).exists()


def test_what_a_killed_process_was_writing_goes(tmp_path: Path) -> None:
    (tmp_path / ".scores.json.tmp-0123abcd").touch()
    (tmp_path / "scores.json").touch()
    with working_folder(tmp_path, ("scores.json",), force=False):
        assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def sources_of(printed: str) -> Any:
    """The last line, as the trainer reads it."""
    import shlex

    (override,) = shlex.split(printed.splitlines()[-1])
    return compose_config(["training=stage1_subln", "model=smollm2_135m", override]).data.sources


def test_select_writes_what_the_trainer_reads(wf: Wf, scores: Path, tmp_path: Path) -> None:
    target = tmp_path / "it's, (1) best.jsonl.gz"
    done = wf("select", scores, "--share", 0.25, "--output", target)
    assert done.exit_code == 0, done.output
    (source,) = sources_of(done.output)
    assert source.location == str(target)
    from data_handler import iter_documents

    documents = list(iter_documents(source))
    assert len(documents) == pytest.approx(10, abs=3)
    assert all(document.startswith("The square of") for document in documents)
    assert "noise" in done.output
    refused = wf("select", scores, "--share", 0.25, "--output", target)
    assert (refused.exit_code, "exists: choose another name" in refused.output) == (2, True)
    assert wf("select", scores, "--share", 1, "--output", target, "--force", "--json").exit_code == 0
    assert len(list(iter_documents(source))) == 40


def test_files_may_be_named_from_where_one_stands(
    wf: Wf, texts: Path, dense_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(texts)
    few = ["--tokens", 32, "--documents", 3, "--blocks", 1, "--sketch", 64, "--output", tmp_path / "scores"]
    done = wf("score", "good.jsonl", "--probe", "exam.jsonl", "--model", dense_dir, *few)
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(tmp_path)
    done = wf("select", "scores", "--share", 1, "--output", "chosen.jsonl")
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "chosen.jsonl").read_text().splitlines()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chosen.jsonl", "scores"]  # no lock beside it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--share", "0"], "the share is 0; give one above 0"),
        (["--share", "1.5"], "the share is 1.5"),
        (["--output", "{folder}/x.parquet"], "give a name that ends with .jsonl"),
        (["--output", "{texts}/good.jsonl", "--force"], "which is only read"),
        (["--output", "{scores}/scores.jsonl", "--force"], "which is only read"),
    ],
)
def test_wrong_choices_are_refused(
    wf: Wf, scores: Path, texts: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    before = (texts / "good.jsonl").read_bytes()
    own = [argument.format(folder=tmp_path, texts=texts, scores=scores) for argument in arguments]
    done = wf("select", scores, "--share", 0.5, "--output", tmp_path / "x.jsonl", *own)
    assert (done.exit_code, message in done.output) == (2, True), done.output
    assert (texts / "good.jsonl").read_bytes() == before
    assert not list(tmp_path.iterdir())


def test_dedup_writes_what_the_trainer_reads(wf: Wf, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unique"
    files = [f"exam={texts / 'exam.jsonl'}", texts / "good.jsonl"]
    done = wf("dedup", *files, "--threshold", 0.95, "--output", folder)
    assert done.exit_code == 0, done.output
    assert [source.name for source in sources_of(done.output)] == ["exam", "good"]
    (dropped,) = (json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines())
    assert (dropped["line"], dropped["twin"]["domain"], dropped["twin"]["line"]) == (6, "exam", 2)
    again = wf("dedup", *files, "--output", folder)
    assert (again.exit_code, "exists: choose another folder" in again.output) == (2, True)
    forced = wf("dedup", *files, "--threshold", 0.95, "--output", folder, "--force", "--json")
    assert json.loads(forced.stdout)["domains"][1]["kept_documents"] == 20


def test_names_that_are_no_text_do_no_harm(wf: Wf, tmp_path: Path) -> None:
    odd = write(tmp_path / os.fsdecode(b"odd \xff\x1b[2J name.jsonl"), ["the same words twice"] * 2)
    done = wf("dedup", odd, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    (row,) = (json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines())
    assert Path(row["file"]) == odd


def test_dedup_replaces_nothing_that_it_did_not_write(wf: Wf, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("keep")
    for options, message in (
        ([], "exists"),
        (["--force"], "thesis.txt in it is not of a deduplicated corpus"),
    ):
        done = wf("dedup", texts / "good.jsonl", "--output", tmp_path, *options)
        assert (done.exit_code, message in done.output) == (2, True), done.output
    inside = wf("dedup", texts / "good.jsonl", "--output", texts, "--force")
    assert (inside.exit_code, "which is to be read" in inside.output) == (2, True)
    assert (tmp_path / "thesis.txt").read_text() == "keep"
    assert (texts / "good.jsonl").is_file()


def test_a_damaged_file_leaves_no_half_of_a_folder(wf: Wf, texts: Path, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", ["fine"])
    bad.write_text(bad.read_text() + "nothing\n")
    done = wf("dedup", texts / "good.jsonl", bad, "--output", tmp_path / "out")
    assert (done.exit_code, "bad.jsonl, line 2: damaged record" in done.output) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "{good}"], "one --source alone is no mixture"),
        (["--source", "{good}", "--source", "{noise}", "--mixtures", "3"], "too few for 2 sources: give 8"),
        (["--source", "{good}", "--source", "{noise}", "--mixtures", "9", "--minutes", "1"], "both say"),
        (["--source", "{good}", "--source", "{noise}", "--minutes", "0"], "give more than 0"),
        (
            ["--source", "{good}", "--source", "{noise}"],
            "overlaps with the sources: {good}, line 6 is {exam}",
        ),
        (["--source", "{good}", "--source", "g={good}"], "is given 2 times"),
    ],
)
def test_wrong_mixtures_are_refused_by_name(
    wf: Wf, texts: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {name: texts / f"{name}.jsonl" for name in ("good", "noise", "exam")}
    own = [argument.format(**names) for argument in arguments]
    done = wf("mix", *own, "--probe", names["exam"], "--output", tmp_path / "mix")
    assert (done.exit_code, message.format(**names) in done.output) == (2, True), done.output


@pytest.fixture(scope="module")
def proxies(texts: Path, tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Any) -> Any:
    from wrinklefree.data_choice.proxies import Proxies

    own = write(texts / "own.jsonl", [f"The square of {n} is {n * n}. " * 3 for n in range(40)])
    domains = parse_domains([str(own), str(texts / "noise.jsonl")])
    probe = parse_one(str(texts / "exam.jsonl"), "probe")
    folder = tmp_path_factory.mktemp("proxies") / "work"
    return Proxies(folder, byte_tokenizer(), domains, probe, Reading(), steps=4)


def test_small_models_tell_text_from_noise(proxies: Any) -> None:
    """The trainer's own runs."""
    good, bad = (proxies.loss({"own": share, "noise": 1 - share}, 0) for share in (1.0, 0.0))
    assert good < bad - 0.05


def test_the_trainers_reason_is_told(proxies: Any) -> None:
    from wrinklefree.errors import RunError

    with pytest.raises(RunError, match=r"training of a small model failed: .*all sources are 0"):
        proxies.loss({"own": 0.0, "noise": 0.0}, 0)


@pytest.mark.slow
def test_a_mixture_is_proposed_for_real(
    wf: Wf, proxies: Any, texts: Path, dense_dir: Path, tmp_path: Path
) -> None:
    sources = ["--source", f"own={texts / 'own.jsonl'}", "--source", f"noise={texts / 'noise.jsonl'}"]
    probe = ["--probe", texts / "exam.jsonl", "--model", dense_dir, "--mixtures", 8, "--steps", 6]
    done = wf("mix", *sources, *probe, "--output", tmp_path / "mix")
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "mix" / "mix.json").read_text())["result"]
    equal = [proxies.loss({"own": 0.5, "noise": 0.5}, seed) for seed in (1, 1, 2)]
    assert equal[0] == equal[1] != equal[2]  # an order of the data has one loss, to the bit
    assert result["is_better_than_equal"]
    assert result["weights"]["own"] > 0.7
    assert {source.name for source in sources_of(done.output)} <= {"own", "noise"}
    again = wf("mix", *sources, *probe, "--output", tmp_path / "mix")
    assert (again.exit_code, "has the result of this request" in again.output) == (2, True)
