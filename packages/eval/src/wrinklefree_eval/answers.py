"""What a model answered to each item of a task: one JSON object a line, to be compared item by item.

    {"task": "qnli", "number": 0, "item": "<hash of the record>", "wanted": "Yes", "answer": "No",
     "logprobs": {"Yes": -1.2, "No": -0.9}, "metrics": {"acc": 0.0}}

`logprobs` (natural) are there where the answer was chosen, and null where it was generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wf_formats.errors import RequestError
from wf_formats.targets import check_file, check_way
from wrinklefree_eval.errors import EvalError, EvalRequestError


@dataclass(frozen=True)
class Answer:
    """The fields are those of a line."""

    task: str
    number: int
    item: str
    wanted: str
    answer: str
    logprobs: dict[str, float] | None
    metrics: dict[str, float]

    @property
    def key(self) -> tuple[str, int]:
        return self.task, self.number


_FIELDS = {
    "task": str,
    "number": int,
    "item": str,
    "wanted": str,
    "answer": str,
    "logprobs": dict | None,
    "metrics": dict,
}


def answers_of(task: str, samples: Sequence[dict[str, Any]]) -> list[Answer]:
    """From lm-eval's samples of a task."""
    return [_answer(task, sample) for sample in samples]


def _answer(task: str, sample: dict[str, Any]) -> Answer:
    values = {name: sample[name] for name in sample["metrics"]}
    metrics = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    responses, target = sample["filtered_resps"], sample["target"]
    logprobs = None
    if len(responses) > 1:
        words = [arguments[1] for arguments in sample["arguments"]]
        logprobs = {word: float(response[0]) for word, response in zip(words, responses, strict=True)}
        answer = max(logprobs, key=logprobs.__getitem__)
        target = words[target] if isinstance(target, int) else target
    else:
        answer = responses[0] if isinstance(responses[0], str) else ""
    return Answer(task, sample["doc_id"], sample["doc_hash"], str(target), answer, logprobs, metrics)


def check_target(path: Path) -> None:
    """Raises: RequestError where something else than earlier answers is there."""
    check_way(path)
    check_file(path)
    try:
        if path.exists():
            read_answers(path)
    except EvalError as error:
        raise RequestError(
            f"{path} is not replaced: it holds no earlier answers; choose another path"
        ) from error


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Whole or not at all."""
    from wf_formats.atomic import atomic_write_text

    atomic_write_text(path, "".join(json.dumps(asdict(answer)) + "\n" for answer in answers))


def read_answers(path: Path) -> list[Answer]:
    """Answers of a file.

    Raises:
        EvalRequestError: there is no such file.
        EvalError: a line holds no answer; names it.
    """
    if not path.is_file():
        raise EvalRequestError(f"there is no file {path}; `wf eval --answers FILE` writes one")
    with path.open(encoding="utf-8", errors="replace") as lines:
        return [_parsed(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]


def _parsed(where: str, line: str) -> Answer:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.keys() != _FIELDS.keys():
        raise EvalError(f"{where}: no answer as `wf eval --answers FILE` writes it; write the file again")
    for name, kind in _FIELDS.items():
        if not isinstance(value[name], kind):
            raise EvalError(f"{where}: {name!r} is {type(value[name]).__name__}; write the file again")
    if not all(isinstance(number, int | float) for number in value["metrics"].values()):
        raise EvalError(f"{where}: a metric is no number; write the file again")
    return Answer(**value)
