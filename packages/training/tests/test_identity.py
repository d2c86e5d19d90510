from __future__ import annotations

import dataclasses
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wrinklefree.compose.composing import compose_config
from wrinklefree.fingerprint import defaults_and_types, digest, expanded, flatten, is_same, pairs_that_differ
from wrinklefree.identity import GitState, RunIdentity, git_state, identify
from wrinklefree.stages.registry import stage_of


def _identity(*overrides: str, parent: str | None = "p") -> RunIdentity:
    config = compose_config(["training=stage2_pretrain", *overrides])
    return identify(config, parent, Path(__file__).parent, stage_of(config).infrastructure_keys)


def test_infrastructure_does_not_count() -> None:
    same = [
        "output_dir=/elsewhere",
        "logging=wandb",
        "num_threads=1",
        "force=true",
        "resume.allow_previous=true",
        "training.checkpoint.every_steps=7",
    ]
    assert _identity(*same).fingerprint == _identity().fingerprint


def test_what_changes_the_result_counts() -> None:
    reference = _identity()
    for override in (
        "seed=1",
        "training.max_steps=5",
        "data.num_workers=1",
        "optimizer=muon",
        "optimizer.state=int8",
    ):
        assert _identity(override).fingerprint != reference.fingerprint, override
    assert _identity(parent="q").fingerprint != reference.fingerprint


def test_differences_name_the_keys() -> None:
    differences = _identity("seed=1").differences(_identity().record)
    assert list(differences.values()) == ["seed: 0 there, 1 now"]
    differences = _identity("optimizer.state=bf16").differences(_identity("optimizer.state=int8").record)
    assert list(differences.values()) == ["optimizer.state: 'int8' there, 'bf16' now"]


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path).commit is None
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = git_state(tmp_path)
    assert clean.commit is not None
    assert not clean.dirty
    (tmp_path / "uv.lock").write_text("")
    assert not git_state(tmp_path).dirty, "uv completes its lock file in place"
    (tmp_path / "package").mkdir()
    (tmp_path / "new").write_text("")
    assert git_state(tmp_path / "package").dirty, "the whole repository counts"


def test_unknown_git_state_is_not_clean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    (tmp_path / ".git" / "config").write_text("[core\n")
    assert git_state(tmp_path) == GitState(None, dirty=None)
    assert "the commit is not recorded: git -C" in caplog.text
    assert "bad config" in caplog.text


def test_no_git_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) == GitState(None, dirty=False)


def test_what_changes_the_rounding_is_recorded() -> None:
    changed = _identity("distributed.kind=ddp", "distributed.accelerator=gpu")
    assert changed.fingerprint == _identity().fingerprint
    assert changed.rounding_differences(_identity().rounding) == [
        "distributed.accelerator: 'auto' there, 'gpu' now",
        "distributed.kind: 'single' there, 'ddp' now",
    ]
    assert changed.rounding["num_threads"] == torch.get_num_threads()


def test_who_makes_the_passes_of_a_step_does_not_count() -> None:
    two = _identity("distributed=ddp", "distributed.devices=2", "training.accumulate_steps=3")
    one = _identity("data.num_shares=2", "training.accumulate_steps=6")
    assert one.fingerprint == two.fingerprint
    assert "training.accumulate_steps: 3 there, 6 now" in one.rounding_differences(two.rounding)
    other_data = _identity("training.accumulate_steps=6")
    assert list(other_data.differences(two.record)) == ["data.num_shares"]
    assert other_data.in_shares_of(two.values).fingerprint == two.fingerprint
    other_step = _identity("training.accumulate_steps=3", "data.num_shares=2").differences(two.record)
    assert list(other_step.values()) == ["training.accumulate_steps x processes: 6 there, 3 now"]


def test_runs_of_before_shares_are_the_same() -> None:
    """run.json then had the numbers as they were given."""
    one, two = _identity(), _identity("distributed=ddp", "distributed.devices=2")
    assert "data.num_shares" not in one.values
    of_two = {k: v for k, v in two.values.items() if k != "data.num_shares"}
    of_two |= {"distributed.devices": 2, "training.accumulate_steps": 1}
    assert not two.differences({"values": of_two})
    assert not one.differences({"values": one.values})
    assert list(one.differences({"values": of_two})) == ["data.num_shares", "training.accumulate_steps"]
    damaged = {"values": {**of_two, "distributed.devices": "2"}}
    assert one.differences(damaged), "a damaged file is a difference"


CHOICES = [
    (),
    ("seed=3",),
    ("training.qk_clip.threshold=50", "model.scheme=group64"),
    ("training.schedule.warmup=7", "training.objectives.continue_pretrain.weight=0.5"),
    ("optimizer=muon",),
    ("optimizer=adamw_8bit", "optimizer.beta2=0.9"),
    ("training=stage1_9_layerwise",),
    ("data.sources=[{kind: packaged, name: python_docs}]",),
    ("data.sources=[{kind: packaged, name: python_docs, weight: 2.0}]",),
    ("data.sources=[{kind: packaged, name: python_docs}, {kind: packaged, name: chat}]",),
]
chosen = st.sampled_from(CHOICES)
OF_BEFORE = "b" * 64


@cache
def _of(choice: tuple[str, ...]) -> RunIdentity:
    return _identity(*choice)


def _before(identity: RunIdentity, later: set[str]) -> dict[str, Any]:
    """The record of code that did not know the keys `later` yet, as it was before records had defaults."""
    sources = [
        {key: value for key, value in source.items() if f"data.sources[{number}].{key}" not in later}
        for number, source in enumerate(identity.values["data.sources"])
    ]
    values = {key: value for key, value in identity.values.items() if key not in later}
    return {"values": values | {"data.sources": sources}, "fingerprint": OF_BEFORE}


# ---- what is hidden


ONE, OTHER = "hf_abcdefghijklmnopqrst", "hf_zzzzzzzzzzzzzzzzzzzz"


def _at(location: str, *overrides: str) -> RunIdentity:
    return _identity(f'data.sources=[{{kind: hub, name: a, location: "{location}"}}]', *overrides)


@pytest.mark.parametrize("location", ["me/{}", "https://me:{}@host/a", "https://host/a?token={}"])
def test_values_that_look_like_keys_count_and_are_not_written_down(location: str) -> None:
    here, there = _at(location.format(ONE)), _at(location.format(OTHER))
    assert here.values == there.values
    assert ONE not in json.dumps(here.record)
    assert here.fingerprint != there.fingerprint
    (line,) = here.differences(there.record).values()
    assert line.startswith("data.sources[0].location: another value than the run was made with (")
    assert OTHER not in line
    assert not here.differences(_at(location.format(ONE)).record)
    assert here.begun_like(there.record) == here


def test_a_value_that_is_the_redacted_text_itself_is_another() -> None:
    assert list(_at("me/***").differences(_at(f"me/{ONE}").record)) == ["data.sources[0].location"]


def test_the_digest_of_a_hidden_value_is_salted_with_what_is_shown() -> None:
    one, other = (_at(f"{place}/{ONE}").hidden["data.sources[0].location"] for place in ("me", "you"))
    assert one != other


def test_hidden_values_of_keys_that_do_not_count_do_not_count() -> None:
    assert _identity(f"output_dir=/{ONE}").record == _identity().record


def test_runs_recorded_before_hidden_values_counted_go_on() -> None:
    here = _at(f"me/{ONE}")
    of_before = {key: value for key, value in here.record.items() if key != "hidden"} | {
        "fingerprint": OF_BEFORE
    }
    assert not here.differences(of_before)
    assert here.begun_like(of_before).fingerprint == OF_BEFORE


# ---- what is told apart


@dataclasses.dataclass
class Loose:
    number: Any = 1
    table: dict[str, Any] = dataclasses.field(default_factory=dict)


def _recorded(config: Loose) -> dict[str, Any]:
    values, (known, types) = (
        flatten(json.loads(json.dumps(dataclasses.asdict(config)))),
        defaults_and_types(config),
    )
    defaults = {key for key, value in expanded(values).items() if key in known and is_same(known[key], value)}
    return {"values": values, "defaults": sorted(defaults), "types": types, "hidden": {}}


def _digest(record: dict[str, Any]) -> str:
    return digest(record["values"], frozenset(record["defaults"]), record["types"], record["hidden"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Loose(table={"a.b": 1}), Loose(table={"a": {"b": 1}})),
        (Loose(table={"a[0]": {"b": 1}}), Loose(table={"a": [{"b": 1}]})),
        (Loose(table={"a\\.b": 1}), Loose(table={"a.b": 1})),
        (Loose(table={"a": [{"b.c": 1}]}), Loose(table={"a": [{"b": {"c": 1}}]})),
        (Loose(1), Loose(True)),
        (Loose([1]), Loose([True])),
        (Loose([{"a": 0}]), Loose([{"a": False}])),
        (Loose({"a": [0]}), Loose({"a": [False]})),
        (Loose([]), Loose([{}])),
        (Loose(None), Loose("None")),
    ],
)
def test_configurations_that_differ_are_told_apart(one: Loose, other: Loose) -> None:
    records = _recorded(one), _recorded(other)
    assert _digest(records[0]) != _digest(records[1])
    assert pairs_that_differ(*records)
    assert pairs_that_differ(*reversed(records))


def test_whole_numbers_are_numbers() -> None:
    assert _digest(_recorded(Loose(1.0))) == _digest(_recorded(Loose(1)))
    assert not pairs_that_differ(_recorded(Loose([2])), _recorded(Loose([2.0])))


def test_a_record_of_before_has_dots_as_they_are() -> None:
    here = _recorded(Loose(table={"a.b": 1, "c": [{"d.e": 2}]}))
    values = {"number": 1, "table.a.b": 1, "table.c": [{"d.e": 2}]}
    of_before = {"values": values, "defaults": ["number"], "types": {}}
    assert not pairs_that_differ(here, of_before)
    values["table.a.b"] = 2
    assert list(pairs_that_differ(here, of_before)) == ["table.a.b"]


# ---- keys that come later


@settings(deadline=None, max_examples=40)
@given(chosen, chosen, st.data())
def test_a_key_that_came_later_is_no_difference_at_its_default(one: Any, other: Any, data: Any) -> None:
    here, there = _of(one), _of(other)
    neutral = sorted(key for key in here.defaults & there.defaults if not _is_of_an_objective(key))
    later = set(data.draw(st.lists(st.sampled_from(neutral), unique=True)))
    of_before, of_later = _before(there, later), there.record
    for record in (of_before, of_later):
        assert bool(here.differences(record)) is (one != other), here.differences(record)
    assert (here.fingerprint == there.fingerprint) is (one == other)
    assert here.begun_like(of_before).fingerprint == (OF_BEFORE if one == other else here.fingerprint)


def _is_of_an_objective(key: str) -> bool:
    """Its weight has always been there, so that it could be told by it."""
    return key.startswith("training.objectives.") and key.endswith(".weight")


@given(chosen, st.data())
@settings(deadline=None, max_examples=20)
def test_a_key_that_came_later_is_a_difference_elsewhere(choice: Any, data: Any) -> None:
    """And one that went again, where it was not at its default."""
    here = _of(choice)
    given_keys = sorted(expanded(here.values).keys() - here.defaults)
    key = data.draw(
        st.sampled_from([k for k in given_keys if k != "parent" and not k.startswith("data.sour")])
    )
    less = {k: v for k, v in here.values.items() if k != key}
    assert list(here.differences({**here.record, "values": less})) == [key]
    without = dataclasses.replace(here, values=less)
    assert list(without.differences(here.record)) == [key]
    assert without.fingerprint != here.fingerprint


def test_a_schema_that_gets_a_key_keeps_its_fingerprints() -> None:
    config = compose_config(["training=stage2_pretrain"])
    before = identify(config, "p", Path(__file__).parent)

    def with_key(value: int) -> RunIdentity:
        kind = type(config.training)
        later = dataclasses.make_dataclass(kind.__name__, [("later", int, 4)], bases=(kind,))
        fields = {f.name: getattr(config.training, f.name) for f in dataclasses.fields(kind)}
        return identify(dataclasses.replace(config, training=later(**fields, later=value)), "p", Path())

    assert with_key(4).fingerprint == before.fingerprint
    assert not with_key(4).differences(before.record)
    assert not before.differences(with_key(4).record), "the older code goes on as well"
    assert with_key(5).fingerprint != before.fingerprint
    assert list(with_key(5).differences(before.record).values()) == ["training.later: 'unset' there, 5 now"]


def test_a_fingerprint_that_is_none_is_not_taken() -> None:
    """Places in a store are named by it."""
    here = _identity()
    for damaged in ("../../other", None, 5, "b" * 63):
        assert here.begun_like({**here.record, "fingerprint": damaged}) == here


def test_a_default_that_became_another_is_a_difference() -> None:
    here = _identity()
    there = {**here.record, "values": here.values | {"training.learning_rate": 1e-3}}
    assert list(here.differences(there)) == ["training.learning_rate"]


@pytest.mark.parametrize(
    ("overrides", "fingerprint"),
    [
        ([], "1c11379ddff5778b"),
        (["training=stage1_9_layerwise", "optimizer=muon"], "56f02c252322b75d"),
    ],
)
def test_fingerprints_stay_what_they_are(overrides: list[str], fingerprint: str) -> None:
    """Uploads are found by them. Another default of a key or name of a schema makes another run of them."""
    assert _identity(*overrides).fingerprint[:16] == fingerprint
