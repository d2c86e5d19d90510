"""Figures that were measured elsewhere and belong into a card, by the JSON files that hold them.

    wf eval --output FILE     perplexity of texts, metrics of tasks
    wf verify --json FILE     the proof of an export
    wf quickstart             report.json: perplexity beside the original's, and a proof

A file counts only for the model that it names by SHA-256 (`wf_formats.digests`): the export or the
checkpoint that it was made from. What the full-precision model reached stands beside it only where text,
tokens and windows are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from wf_converter.card_record import CardRecord, Proof, TaskScore, TextScore
from wf_formats.errors import RequestError
from wf_formats.json_file import read_value

EXPORT, CHECKPOINT = "export", "checkpoint"
QUICKSTART_TEXT = "held-out part of the quickstart's text"
_KNOWN = "the JSON of wf eval --output, wf verify --json or a quickstart's report.json"
_SAME_MODEL = (
    "give what was measured on this export, or on the checkpoint that it was made from, as they are now"
)
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Score = TypeVar("_Score", TextScore, TaskScore)


@dataclass(frozen=True)
class _Model:
    sha256: str


@dataclass(frozen=True)
class _Perplexity:
    source: str
    perplexity: _Positive
    bits_per_byte: _Positive
    num_tokens: int
    context_tokens: int
    stride_tokens: int


@dataclass(frozen=True)
class _Evaluation:
    model: _Model
    perplexity: list[_Perplexity]
    tasks: dict[str, dict[str, _Finite]]


@dataclass(frozen=True)
class _Difference:
    mean_abs_delta: _Finite
    top1_agreement: _Finite


@dataclass(frozen=True)
class _Weights:
    num_matrices: int


@dataclass(frozen=True)
class _Proof:
    passed: bool
    export_sha256: str
    checkpoint_sha256: str
    runtime: str
    tokens: int
    weights: _Weights
    judged: _Difference
    as_trained: _Difference


class Findings(Protocol):
    """A proof, just made (`wf_converter.verify.Verification`) or read."""

    @property
    def passed(self) -> bool: ...
    @property
    def runtime(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def weights(self) -> _HasMatrices: ...
    @property
    def judged(self) -> _HasDeltas: ...
    @property
    def as_trained(self) -> _HasDeltas: ...


class _HasMatrices(Protocol):
    @property
    def num_matrices(self) -> int: ...


class _HasDeltas(Protocol):
    @property
    def mean_abs_delta(self) -> float: ...
    @property
    def top1_agreement(self) -> float: ...


@dataclass(frozen=True)
class _Held:
    perplexity: _Positive
    bits_per_byte: _Positive
    num_tokens: int
    context_tokens: int


@dataclass(frozen=True)
class _Quickstart:
    perplexity: dict[str, _Held]
    proof: _Proof


@dataclass(frozen=True)
class Report:
    """A file that was read; which model it is of is asked when it is added."""

    path: Path
    contents: _Evaluation | _Proof | _Quickstart


def read_report(path: Path) -> Report:
    """Raises: RequestError for a file that is missing, damaged or something else; it names the value."""
    values = read_value(path, RequestError)
    if not isinstance(values, dict):
        raise RequestError(f"{path} is no report of a measurement; give {_KNOWN}")
    kinds: dict[type[Any], bool] = {
        _Quickstart: isinstance(values.get("perplexity"), dict) and "proof" in values,
        _Evaluation: {"model", "perplexity", "tasks"} <= values.keys(),
        _Proof: {"passed", "judged", "as_trained"} <= values.keys(),
    }
    kind = next((kind for kind, is_it in kinds.items() if is_it), None)
    if kind is None:
        raise RequestError(f"{path} is no report of a measurement; give {_KNOWN}")
    try:
        return Report(path, TypeAdapter(kind).validate_python(values))
    except ValidationError as error:
        raise RequestError(_fault(path, error)) from error


def _fault(path: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing" and where.endswith("sha256"):
        return f"{path} does not say which model it measured ({where}): measure again with this version"
    return f"{path} is damaged: {where} is {first['input']!r:.80} ({first['msg']})"


def with_report(record: CardRecord, report: Report) -> CardRecord:
    """The record with a report's figures; those of an earlier one of the same are replaced.

    Raises: RequestError for figures of another model, or a proof that did not pass.
    """
    match report.contents:
        case _Evaluation() as found:
            measured_on = _measured_on(record, report.path, found.model.sha256)
            texts = [_text_score(one, measured_on) for one in found.perplexity]
            tasks = _task_scores(found.tasks, measured_on)
            return replace(
                record,
                texts=_merged(record.texts, texts, _text_key),
                tasks=_merged(record.tasks, tasks, _task_key),
            )
        case _Proof() as found:
            return replace(record, proof=_proof(record, report.path, found))
        case _Quickstart() as found:
            return _with_quickstart(record, report.path, found)


def with_baseline(record: CardRecord, report: Report) -> CardRecord:
    """The record with the figures of the full-precision model beside its own.

    Raises: RequestError for anything but `wf eval`'s, of this model itself, or with nothing to stand beside.
    """
    found, path = report.contents, report.path
    if not isinstance(found, _Evaluation):
        raise RequestError(
            f"--baseline {path} is no JSON of wf eval --output; measure the full-precision model"
        )
    if found.model.sha256 in (record.model_sha256, record.checkpoint_sha256):
        raise RequestError(f"--baseline {path} is of this model itself; measure the full-precision model")
    theirs = {_text_key(score): score for score in (_text_score(one, "") for one in found.perplexity)}
    texts = [_beside(score, theirs.get(_text_key(score))) for score in record.texts]
    values = {_task_key(score): score.value for score in _task_scores(found.tasks, "")}
    tasks = [
        replace(score, full_precision_value=values.get(_task_key(score), score.full_precision_value))
        for score in record.tasks
    ]
    if texts == record.texts and tasks == record.tasks:
        raise RequestError(
            f"--baseline {path} has no figure beside this model's: measure both with the same --text, "
            "--context and --stride, or tasks, and give this model's with --report"
        )
    return replace(record, texts=texts, tasks=tasks)


def _beside(score: TextScore, theirs: TextScore | None) -> TextScore:
    if theirs is None:
        return score
    return replace(
        score,
        full_precision_perplexity=theirs.perplexity,
        full_precision_bits_per_byte=theirs.bits_per_byte,
    )


def _measured_on(record: CardRecord, path: Path, sha256: str) -> str:
    if sha256 == record.model_sha256:
        return EXPORT
    if sha256 == record.checkpoint_sha256:
        return CHECKPOINT
    raise _of_another_model(path, sha256)


def _of_another_model(path: Path, sha256: str) -> RequestError:
    return RequestError(f"{path} is of another model (SHA-256 {sha256:.12}...): {_SAME_MODEL}")


def _text_score(found: _Perplexity, measured_on: str) -> TextScore:
    return TextScore(
        text=Path(found.source).name,
        measured_on=measured_on,
        context_tokens=found.context_tokens,
        stride_tokens=found.stride_tokens,
        num_tokens=found.num_tokens,
        perplexity=found.perplexity,
        bits_per_byte=found.bits_per_byte,
    )


def _task_scores(tasks: dict[str, dict[str, float]], measured_on: str) -> list[TaskScore]:
    return [
        TaskScore(
            task, metric, measured_on, value, int(values["num_samples"]), values.get(f"{metric}_stderr")
        )
        for task, values in tasks.items()
        for metric, value in values.items()
        if metric != "num_samples" and "_stderr" not in metric
    ]


def _text_key(score: TextScore) -> tuple[Any, ...]:
    return score.text, score.num_tokens, score.context_tokens, score.stride_tokens


def _task_key(score: TaskScore) -> tuple[Any, ...]:
    return score.task, score.metric, score.num_samples


def _merged(
    old: Sequence[_Score], new: Sequence[_Score], key: Callable[[_Score], tuple[Any, ...]]
) -> list[_Score]:
    """Old ones that no new one replaces, and the new ones."""

    def place(score: _Score) -> tuple[Any, ...]:
        return score.measured_on, *key(score)

    replaced = {place(score) for score in new}
    return [score for score in old if place(score) not in replaced] + list(new)


def _proof(record: CardRecord, path: Path, found: _Proof) -> Proof:
    if (found.export_sha256, found.checkpoint_sha256) != (record.model_sha256, record.checkpoint_sha256):
        raise RequestError(
            f"{path} proves another export (SHA-256 {found.export_sha256:.12}...): prove this one with "
            "wf verify --json"
        )
    if not found.passed:
        raise RequestError(f"{path} says that the export is NOT PROVED: export it again")
    return proof_of(found)


def proof_of(found: Findings) -> Proof:
    """What a card says of a proof that passed."""
    return Proof(
        runtime=found.runtime,
        tokens=found.tokens,
        num_matrices=found.weights.num_matrices,
        mean_abs_delta=found.judged.mean_abs_delta,
        top1_agreement=found.judged.top1_agreement,
        as_trained_mean_abs_delta=found.as_trained.mean_abs_delta,
        as_trained_top1_agreement=found.as_trained.top1_agreement,
    )


def _with_quickstart(record: CardRecord, path: Path, found: _Quickstart) -> CardRecord:
    """Its last stage was measured, as a checkpoint, beside the original."""
    if found.proof.checkpoint_sha256 != record.checkpoint_sha256:
        raise _of_another_model(path, found.proof.checkpoint_sha256)
    score = found.perplexity.get("distilled", found.perplexity.get("calibrated"))
    if score is None:
        raise RequestError(f"{path} is damaged: it has no perplexity of the calibrated model")
    theirs = found.perplexity.get("teacher")
    text = TextScore(
        text=QUICKSTART_TEXT,
        measured_on=CHECKPOINT,
        context_tokens=score.context_tokens,
        num_tokens=score.num_tokens,
        perplexity=score.perplexity,
        bits_per_byte=score.bits_per_byte,
    )
    if theirs is not None and theirs.num_tokens == score.num_tokens:
        text = _beside(text, replace(text, perplexity=theirs.perplexity, bits_per_byte=theirs.bits_per_byte))
    proof = record.proof
    if found.proof.export_sha256 == record.model_sha256:
        proof = _proof(record, path, found.proof)
    return replace(record, texts=_merged(record.texts, [text], _text_key), proof=proof)
