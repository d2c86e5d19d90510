"""Two models' answers to the same items, against the binomial distribution written out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wrinklefree_eval.answers import Answer, write_answers
from wrinklefree_eval.compare import app, compare_answers, mcnemar

run = CliRunner().invoke


def answer(number: int, correct: float, metric: str = "acc", **fields: Any) -> Answer:
    values: dict[str, Any] = {"task": "qnli", "item": f"hash{number}", "wanted": "Yes", "answer": "No"}
    return Answer(**values | {"number": number, "logprobs": None, "metrics": {metric: correct}} | fields)


def pairs(*counts: int) -> tuple[list[Answer], list[Answer]]:
    """Answers of which both, the first, the second, neither are right so many times."""
    kinds = [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    values = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    first, second = zip(*values, strict=True)
    return [answer(n, v) for n, v in enumerate(first)], [answer(n, v) for n, v in enumerate(second)]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (2, 9), (30, 12), (400, 470)])
def test_mcnemar_is_twice_the_binomial_tail(b: int, c: int):
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar(b, c) == pytest.approx(min(1, 2 * tail), rel=1e-9)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_what_is_said_of_right_and_wrong():
    (found,) = compare_answers(*pairs(50, 4, 15, 31))
    assert (found.num_items, found.first, found.second) == (100, 0.54, 0.65)
    assert found.difference == pytest.approx(0.11)
    assert (found.only_first, found.only_second) == (4, 15)
    assert found.p_value == pytest.approx(0.0192, abs=1e-4)
    variance = (19 / 100 - 0.11**2) * 100 / 99
    assert found.stderr == pytest.approx(math.sqrt(variance / 100))


def test_other_metrics_have_a_paired_error_and_no_test():
    first = [answer(n, v, "rouge1") for n, v in enumerate((0.25, 0.5, 1.0))]
    second = [answer(n, v, "rouge1") for n, v in enumerate((0.5, 0.75, 1.0))]
    (found,) = compare_answers(first, second)
    assert found.p_value is None
    assert found.difference == pytest.approx(0.5 / 3)
    assert found.stderr == pytest.approx(0.25 / 3)


def test_the_command_shows_and_writes(tmp_path: Path):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, answers in zip(paths, pairs(50, 4, 15, 31), strict=True):
        write_answers(path, answers)
    output = tmp_path / "comparison.json"
    for _ in range(2):
        result = run(app, [*map(str, paths), "--output", str(output)])
        assert result.exit_code == 0, result.output
    assert "0.0192" in result.stdout
    written = json.loads(output.read_text())
    assert written["comparisons"][0]["only_second"] == 15
    result = run(app, [*map(str, paths), "--output", str(paths[0])])
    assert result.exit_code == 2
    assert "no earlier report" in result.stderr


@pytest.mark.parametrize(
    ("second", "message", "code"),
    [
        (pairs(50, 4, 15, 30)[1], r"item 99 of qnli is in the first file only (100 and 99 answers)", 2),
        ([answer(n, 1.0, item="other") for n in range(100)], "item 0 of qnli is another record in each", 2),
        ([answer(n, 1.0, task="sst2") for n in range(100)], "item 0 of qnli is in the first file only", 2),
        ("{}\n", "b.jsonl, line 1: no answer as `wf eval --answers FILE` writes it", 1),
        (b"\xff\n", "b.jsonl, line 1: no answer", 1),
        (None, "there is no file", 2),
    ],
)
def test_what_cannot_be_compared_is_named(second: Any, message: str, code: int, tmp_path: Path):
    first, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_answers(first, pairs(50, 4, 15, 31)[0])
    if isinstance(second, list):
        write_answers(other, second)
    elif second is not None:
        other.write_bytes(second if isinstance(second, bytes) else second.encode())
    result = run(app, [str(first), str(other)])
    assert result.exit_code == code
    (line,) = result.stderr.strip().splitlines()
    assert message in line


def test_nothing_is_not_compared(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("")
    result = run(app, [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert result.exit_code == 2
    assert "holds no answers" in result.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [("number", "1"), ("metrics", {"acc": "x"}), ("logprobs", 3), ("wanted", None)],
)
def test_fields_of_other_types_are_damage(field: str, value: object, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    write_answers(path, [answer(0, 1.0)])
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}) + "\n")
    result = run(app, [str(path), str(path)])
    assert result.exit_code == 1
    assert "a.jsonl, line 1: " in result.stderr
