"""t2 or t5: the faster one by a clock, kept unless the other is clearly faster, remembered by machine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ternary_kernels as tk
from ternary_kernels import format_race, packing
from ternary_kernels.format_race import Race, ShapeClass, choose_format, shape_class
from ternary_kernels.packed import cache, formats, load_packed
from ternary_kernels.packed.formats import FormatRecords, answers_here
from ternary_kernels.packed.key import SUFFIX
from ternary_kernels.packed.settings import CacheSettings
from wf_formats import content_records
from wf_formats.matrix import NumpyMatrix
from wf_formats.models import open_model

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "random_model.py"
HOLDER = packing.default_format()
OTHER = "t5" if HOLDER == "t2" else "t2"
SHAPE = ShapeClass(512, 256, 0, 4)


class Clock:
    """Seconds that pass as the formats of what is multiplied say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float | tuple[float, float]) -> None:
        self.now_s, self.products = 0.0, 0

        def time_products(matrices: list[tk.Matrix], x: np.ndarray, repeats: int) -> None:
            for_format = seconds[matrices[0].format]
            token_s, batch_s = for_format if isinstance(for_format, tuple) else (for_format, for_format)
            self.now_s += (token_s if len(x) == 1 else batch_s) * len(matrices)
            self.products += 1

        monkeypatch.setattr(format_race, "time_products", time_products)

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def folder(module_of: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models of both kinds of scales."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("tq2_0", "q4_0"):
        module_of(SCRIPT).write_model(folder / f"{kind}.gguf", "random", kind)
    return folder


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "tq2_0.gguf"


@pytest.fixture
def raced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of any size, and files of any age."""
    monkeypatch.setattr(format_race, "MIN_WEIGHTS", 1)
    monkeypatch.setattr(content_records, "GRAIN_S", -60.0)


@pytest.fixture
def settings(tmp_path: Path) -> CacheSettings:
    return CacheSettings(tmp_path / "packed", 10**9, is_verified=False)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def records(settings: CacheSettings, warnings: list[str]) -> FormatRecords:
    return FormatRecords(settings.folder, lambda words, error: warnings.append(words % ("", error)))


@pytest.mark.parametrize(
    ("seconds", "winner"),
    [
        ({HOLDER: 1.0, OTHER: 0.9}, OTHER),
        ({HOLDER: 1.0, OTHER: 0.98}, HOLDER),  # noise
        ({HOLDER: 0.9, OTHER: 1.0}, HOLDER),
        ({HOLDER: 0.0, OTHER: 0.0}, HOLDER),  # a clock that stands still
        ({HOLDER: (1.0, 1.0), OTHER: (0.8, 1.1)}, OTHER),  # both count
        ({HOLDER: (1.0, 1.0), OTHER: (0.8, 1.3)}, HOLDER),
    ],
)
def test_the_faster_one_wins_unless_it_is_noise(path, raced, monkeypatch, seconds, winner):
    assert choose_format(open_model(path), clock=Clock(monkeypatch, **seconds)) == winner


def test_the_least_times_count(path, raced, monkeypatch):
    clock, disturbed = Clock(monkeypatch, **{HOLDER: 1.0, OTHER: 0.9}), iter([50.0] * 8)

    def noisy() -> float:
        clock.now_s += next(disturbed, 0.0)
        return clock.now_s

    assert choose_format(open_model(path), clock=noisy) == OTHER


def test_what_is_too_small_for_a_race_has_the_default(path, monkeypatch):
    clock = Clock(monkeypatch, **{HOLDER: 1.0, OTHER: 0.1})
    assert choose_format(open_model(path), clock=clock) == HOLDER
    assert not clock.products


def test_the_clock_of_the_processor_finds_one_of_them(path, raced, caplog):
    with caplog.at_level(logging.INFO):
        assert choose_format(open_model(path)) in ("t2", "t5")
    assert "beside t2, t5 takes " in caplog.text


def test_copies_are_as_many_as_the_model_has_or_two_caches(monkeypatch):
    monkeypatch.setattr(format_race, "_last_cache_bytes", lambda: 1 << 20)
    codes = np.zeros((512, 1024), np.int8)
    tensor = NumpyMatrix(codes, np.ones((512, 16), np.float32))
    assert shape_class(tensor, 3 * codes.size) == ShapeClass(512, 1024, 64, 3)
    assert shape_class(tensor, 2**40) == ShapeClass(512, 1024, 64, 16)
    assert shape_class(NumpyMatrix(codes, np.ones(512, np.float32)), codes.size) == ShapeClass(
        512, 1024, 0, 1
    )


@pytest.mark.parametrize("kind", ["tq2_0", "q4_0"])
def test_logits_are_equal_to_the_bit_whatever_wins(folder, kind):
    tokens, starts = np.arange(40, dtype=np.int32), np.array([0, 40], np.int32)
    found = []
    for format in ("t2", "t5"):
        weights = tk.load_model(folder / f"{kind}.gguf", format=format)
        assert {getattr(layer, part).format for layer in weights.layers for part in ("q", "down")} == {format}
        decoder = tk.Decoder(weights, 2, num_threads=1)
        contexts, pages = np.zeros(1, np.int32), np.arange(2, dtype=np.int32)[None]
        found.append(decoder.forward(tokens, starts, contexts, pages, tokens))
    assert np.isfinite(found[0]).all()
    np.testing.assert_array_equal(*found)


def test_an_answer_is_remembered_and_other_code_keeps_it_but_for_a_clear_gain(
    path, raced, records, monkeypatch
):
    source = open_model(path)
    assert choose_format(source, records, Clock(monkeypatch, **{HOLDER: 1.0, OTHER: 0.9})) == OTHER
    clock = Clock(monkeypatch, **{HOLDER: 0.1, OTHER: 0.9})
    assert choose_format(source, records, clock) == OTHER
    assert not clock.products
    monkeypatch.setattr(formats, "code_sha256", lambda: "0" * 64)
    assert choose_format(source, records, Clock(monkeypatch, **{HOLDER: 0.98, OTHER: 1.0})) == OTHER
    assert choose_format(source, records, clock) == OTHER, "remembered for this code"
    monkeypatch.setattr(formats, "code_sha256", lambda: "1" * 64)
    assert choose_format(source, records, Clock(monkeypatch, **{HOLDER: 0.1, OTHER: 0.9})) == HOLDER


def test_other_machines_and_shapes_have_answers_of_their_own(records, settings, monkeypatch):
    race = Race({"t2": (1.0, 1.0), "t5": (0.5, 0.8)})
    records.add(SHAPE, "t5", race)
    assert records.known(SHAPE) == "t5"
    for other in (replace(SHAPE, rows=1024), replace(SHAPE, copies=5), replace(SHAPE, group_size=64)):
        assert records.holder(other) is None
    (answer,) = answers_here(settings.folder)
    assert str(answer) == "t5 for 512 x 256 (beside it t2 takes 2.00, 1.25 for 16 tokens)"
    monkeypatch.setattr(formats, "processor", lambda: "another")
    assert records.holder(SHAPE) is None
    assert list(answers_here(settings.folder)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda found: b"",
        lambda found: b"\xff\xfe",
        lambda found: b"[" * 100_000,
        lambda found: b"[1]",
        lambda found: b"{}",
        lambda found: json.dumps(found | {"winner": "t3"}).encode(),
        lambda found: json.dumps(found | {"isa": 3}).encode(),
        lambda found: json.dumps(found | {"shape": found["shape"] | {"rows": True}}).encode(),
        lambda found: json.dumps(found | {"seconds": {"t2": [1e999, 1.0], "t5": [1.0, 1.0]}}).encode(),
        lambda found: json.dumps(found | {"shape": {"rows": 1}}).encode(),
        lambda found: json.dumps(found | {"seconds": {"t2": [1.0, 1.0]}}).encode(),
        lambda found: json.dumps(found | {"seconds": {"t2": [1.0, 0.0], "t5": [1.0, 1.0]}}).encode(),
        lambda found: json.dumps(found | {"seconds": ["t2", "t5"]}).encode(),
        lambda found: json.dumps(found | {"seconds": {"t2": 3, "t5": 3}}).encode(),
        lambda found: json.dumps(found | {"shape": found["shape"] | {"rows": "x"}}).encode(),
        lambda found: json.dumps(found | {"more": 1}).encode(),
    ],
)
def test_a_damaged_answer_is_said_and_raced_again(records, settings, caplog, change):
    records.add(SHAPE, "t5", Race({"t2": (1.0, 1.0), "t5": (0.5, 0.8)}))
    (file,) = (settings.folder / formats.FOLDER).iterdir()
    file.write_bytes(change(json.loads(file.read_text())))
    assert records.known(SHAPE) is None
    assert f"{file} is no answer of a race" in caplog.text
    records.add(SHAPE, "t2", Race({"t2": (1.0, 1.0), "t5": (2.0, 2.0)}))
    assert records.known(SHAPE) == "t2"


def test_an_answer_under_anothers_name_is_not_believed(records, settings, caplog):
    other = replace(SHAPE, rows=1024)
    records.add(SHAPE, "t5", Race({"t2": (1.0, 1.0), "t5": (0.5, 0.8)}))
    (file,) = (settings.folder / formats.FOLDER).iterdir()
    records.add(other, "t2", Race({"t2": (1.0, 1.0), "t5": (2.0, 2.0)}))
    (of_other,) = set((settings.folder / formats.FOLDER).iterdir()) - {file}
    of_other.write_bytes(file.read_bytes())
    assert records.known(other) is None
    assert records.holder(other) is None
    assert f"{of_other} is the answer of another race" in caplog.text
    assert records.known(SHAPE) == "t5"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_something_else_in_its_place_is_a_warning(records, settings, warnings, caplog, make):
    race = Race({"t2": (1.0, 1.0), "t5": (0.5, 0.8)})
    records.add(SHAPE, "t5", race)
    (file,) = (settings.folder / formats.FOLDER).iterdir()
    file.unlink()
    make(file)
    assert records.known(SHAPE) is None
    assert "it is no regular file" in caplog.text
    records.add(SHAPE, "t5", race)
    assert warnings
    assert str(file) in warnings[0]


@pytest.fixture
def no_race(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called."""

    def forbid() -> None:
        def fail(*_: object) -> None:
            raise AssertionError("packed again")

        monkeypatch.setattr(cache, "choose_format", fail)
        monkeypatch.setattr(cache, "assemble", fail)

    return forbid


@pytest.fixture
def kept(settings: CacheSettings) -> Callable[[], int]:
    return lambda: len(list(settings.folder.glob(f"*{SUFFIX}")))


def test_a_kept_model_is_found_by_what_was_asked_for(path, raced, settings, kept, monkeypatch, no_race):
    clock = Clock(monkeypatch, **{HOLDER: 1.0, OTHER: 0.9})
    monkeypatch.setattr(cache, "choose_format", partial(choose_format, clock=clock))
    assert load_packed(path, settings=settings).weights.layers[0].down.format == OTHER
    assert load_packed(path, settings=settings, format=HOLDER).weights.layers[0].down.format == HOLDER
    assert kept() == 2
    no_race()
    assert load_packed(path, settings=settings).weights.layers[0].down.format == OTHER
    assert load_packed(path, settings=settings, format=HOLDER).weights.layers[0].down.format == HOLDER
    monkeypatch.setattr("ternary_kernels.packed.key.processor", lambda: "another")
    assert load_packed(path, settings=settings, format=HOLDER).is_mapped, "nothing was decided on a processor"
    with pytest.raises(AssertionError, match="packed again"):
        load_packed(path, settings=settings)


def test_what_keeps_no_models_remembers_the_format(path, raced, settings, kept, monkeypatch):
    clock = Clock(monkeypatch, **{HOLDER: 1.0, OTHER: 0.9})
    monkeypatch.setattr(cache, "choose_format", partial(choose_format, clock=clock))
    for _ in range(2):
        loaded = load_packed(path, settings=replace(settings, keeps_models=False))
        assert (loaded.weights.layers[0].down.format, loaded.is_mapped) == (OTHER, False)
        products, clock.products = clock.products, 0
    assert not products
    assert kept() == 0


def test_without_a_cache_nothing_is_remembered(path, raced, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_packed(path).weights.layers[0].down.format in ("t2", "t5")
    assert load_packed(path, format="t5").weights.layers[0].down.format == "t5"
    assert list(tmp_path.iterdir()) == []


def test_the_scalar_kernels_run_no_race(path, raced, monkeypatch):
    clock = Clock(monkeypatch, t2=1.0, t5=0.1)
    monkeypatch.setattr(format_race, "info", lambda: {"isa": "scalar"})
    assert choose_format(open_model(path), clock=clock) == HOLDER
    assert not clock.products


def test_a_folder_that_cannot_be_made_is_a_warning_and_the_model_gets_its_format(
    path, raced, settings, records, warnings, monkeypatch
):
    settings.folder.write_text("a file")
    assert choose_format(open_model(path), records, Clock(monkeypatch, **{HOLDER: 1.0, OTHER: 0.5})) == OTHER
    assert "which format is faster is not kept" in warnings[0]
