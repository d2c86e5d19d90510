"""Which overrides name files that a job elsewhere does not see."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from wf_deployer.backends.travelling import Checkout, Destination, refuse_files_that_stay
from wf_deployer.errors import CommandRequestError


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sent are `src` and `data`, of `mixed` a part, of the others nothing."""
    root = tmp_path_factory.mktemp("checkout")
    for name in (
        "src/a.py",
        "src/__pycache__/a.pyc",
        "data/text.jsonl",
        "mixed/sent.txt",
        "mixed/kept.txt",
        "models/mine/config.json",
        "corpus",
        "work/near.txt",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "inward").symlink_to("src/a.py")
    (root / "outward").symlink_to("/etc/hostname")
    return root


SENT = ("src/a.py", "data/text.jsonl", "mixed/sent.txt", "inward", "outward", "gone.txt", "work/near.txt")


def destination(root: Path, called_from: str = ".", folder: str = ".") -> Destination:
    return Destination(
        called_from=root / called_from,
        folder=root / folder,
        has=Checkout(root, lambda _: SENT).has,
        knows=lambda path: path.startswith("/outputs/"),
        fix="give a bucket",
        other_keys=("handled",),
    )


STAY = [
    "a=/x",
    "a=/",
    "+a=/x/*.jsonl",
    "a=/outputs",
    "a=/outputs/../etc/passwd",
    "a='~/x'",
    "a='~me/x'",
    "a=file:///x",
    "a=FILE:/x",
    "data.sources=[{kind: path, name: a, location: /x}]",
    "data.sources=[{name: a, location: [data/text.jsonl, 'models/mine']}]",
    '++data.more={deep: {list: [[["/x"]]]}}',
    "a.b=../x",
    "a=./none",
    "training.start_from=models/mine",
    "training.start_from=not/here",
    "training.start_from=here",
    "a=models/mine",
    "a=models/mi*",
    "a='models/mine/'",
    "a.b=corpus",
    "a=mixed/kept.txt",
    "a=mixed/",
    "a='mixed/*'",
    "a=./outward",
    "a.b=outward",
    "a=${oc.env:WF_TEST_FOLDER}/text",
    "a='/x/${other}'",
    "data.sources=[{kind: path, name: a, location: data/none.jsonl}]",
    "data.sources=[{location: none, kind: path}]",
    "data.sources=[{kind: path, name: a, location: [data/text.jsonl, none.jsonl]}]",
    "data={sources: [{kind: path, name: a, location: corpus}]}",
    "+data={train: [[{kind: '${oc.env:WF_TEST_KIND}', location: none}]]}",
    "data.sources=[{kind: '${kind}', location: none}]",
    "training={start_from: not/here}",
    "a='${oc.create:{b: /etc/x}}'",
    "a='${oc.select:b,/etc/x}'",
]
UNKNOWN = [
    "data.sources=[{kind: path, name: a, location: '${seed}/../../etc/passwd'}]",
    "data.sources=[{kind: path, name: a, location: '${later:/etc/passwd}'}]",
    "data.sources=[{kind: path, name: a, location: '${mine}'}]",
    "training.start_from='${mine}'",
    "a='${other}/x'",
    "a='${later:/etc/passwd}'",
    "a='./${other}'",
    "a='file:${other}/x'",
    "a='${oc.env:WF_TEST_NONE}/x'",
    "a={b: ['${oc.decode:${other}}/x']}",
]
TRAVEL = [
    "steps=3",
    "a=",
    "a=null",
    "a=[1,2.5,true]",
    "experiment=corpus",
    "a=gs://b/x",
    "a=s3://b/x",
    "a=/outputs/mine/final",
    "model.name=HuggingFaceTB/SmolLM2-135M",
    "a=src/a.py",
    "a=./src/a.py",
    "a.b=src",
    "a='data/*.jsonl'",
    "a=src/../data/text.jsonl",
    "a=inward",
    "a.b=inward",
    "handled=/x",
    "a=${other}",
    "a='${other}-2'",
    "a='gs://b/${other}/x'",
    "a='/outputs/${other}/final'",
    "a='${now:%Y}'",
    "a='${oc.env:WF_TEST_NONE,data}/text.jsonl'",
    "data.sources=[{kind: path, name: a, location: data/text.jsonl}]",
    "data.sources=[{kind: path, name: a, location: [src, 'data/*.jsonl', 's3://b/x']}]",
    "data.sources=[{kind: hub, name: path, location: none/none}]",
    "+data.sources=[{kind: path, name: a, location: /outputs/x}, {kind: hub, location: none/none}]",
    "data.kind=path",
    "a='say: yes/no'",
    f"a={'x/' * 3000}",
    "-s",
    "/usr/bin/python",
    "~a",
]


@pytest.mark.parametrize("argument", STAY)
def test_a_file_that_stays_is_named(checkout: Path, monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    monkeypatch.setenv("WF_TEST_FOLDER", str(checkout))
    monkeypatch.setenv("WF_TEST_KIND", "path")
    with pytest.raises(CommandRequestError, match="is a path of this machine") as raised:
        refuse_files_that_stay(["python", "-m", "x", "steps=3", argument], destination(checkout))
    assert argument in str(raised.value)
    assert "give a bucket" in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("argument", UNKNOWN)
def test_what_may_be_a_path_and_is_not_known_here_is_named(checkout: Path, argument: str) -> None:
    with pytest.raises(CommandRequestError, match="refers to what is not known here") as raised:
        refuse_files_that_stay(["python", "steps=3", argument], destination(checkout))
    assert argument in str(raised.value)
    assert "write it out, or give a bucket" in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("kind", ["data.sources.0.kind=path", "data={sources: {0: {kind: path}}}"])
def test_kind_and_location_may_stand_in_two_overrides(checkout: Path, kind: str) -> None:
    for location, stays in (("data/none.jsonl", True), ("data/text.jsonl", False)):
        for command in (
            [kind, f"data.sources.0.location={location}"],
            [f"data.sources.0.location={location}", kind],
        ):
            with pytest.raises(CommandRequestError, match="none") if stays else nullcontext():
                refuse_files_that_stay(command, destination(checkout))
    refuse_files_that_stay([kind, "data.sources.1.location=none/none"], destination(checkout))


def test_what_is_there_too_or_no_file_is_taken(checkout: Path) -> None:
    for argument in TRAVEL:
        refuse_files_that_stay(["python", argument], destination(checkout))


@pytest.mark.parametrize(
    ("argument", "called_from", "folder", "stays"),
    [
        ("a=near.txt", "work", "work", False),
        ("a=../src/a.py", "work", "work", False),
        ("a=../corpus", "work", "work", True),
        ("a.b=near.txt", "work", ".", True),  # it runs at the top, where there is none
        ("a=work/near.txt", "work", ".", False),
        ("a=../src/a.py", "work", ".", True),
    ],
)
def test_relative_paths_count_from_where_the_command_runs(
    checkout: Path, argument: str, called_from: str, folder: str, stays: bool
) -> None:
    told = None
    try:
        refuse_files_that_stay([argument], destination(checkout, called_from, folder))
    except CommandRequestError as error:
        told = str(error)
    assert (told is not None) is stays


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("a=[1,", "a=[1, is no override: "),
        ("a=" + "[" * 900 + "]" * 900, "a=[[[[[["),
        ("a=choice(/x,/y)", "a=choice(/x,/y) is a sweep; give one value"),
    ],
)
def test_what_hydra_does_not_take_as_one_value_is_refused(checkout: Path, argument: str, told: str) -> None:
    with pytest.raises(CommandRequestError) as raised:
        refuse_files_that_stay([argument], destination(checkout))
    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)


def test_git_is_not_asked_where_no_file_is_named(checkout: Path) -> None:
    asked: list[Path] = []

    def list_files(root: Path) -> Sequence[str]:
        asked.append(root)
        return SENT

    there = Checkout(checkout, list_files)
    assert there.has(checkout / "src" / "a.py")
    assert there.has(checkout / "data")
    assert not there.has(checkout / "corpus")
    assert not there.has(checkout / "gone.txt")
    assert not there.has(Path(os.sep))
    assert asked == [checkout]
