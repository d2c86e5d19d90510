"""Ranks documents, or domains, by the influence that a step on them has on a probe (data_handler.influence).

    FOLDER/scores.jsonl   a line for each document (or domain): where it is, its tokens, its score
    FOLDER/scores.json    the request, the domains, and what was left out
    FOLDER/scores.png     the scores by domain
    FOLDER/sketches/      while it works (sketch_parts.py): the same command goes on from there

A document stands for itself by its first `tokens` tokens. Documents are taken in a random order until the
time is over, so those that were scored are a sample of all; what is left is not in scores.jsonl.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bitnet_arch
from bitnet_arch.families import blocks
from data_handler.corpus.domains import Domain, Reading
from data_handler.corpus.score_file import (
    BY_DOCUMENT,
    BY_DOMAIN,
    REPORT_FILE,
    ROWS_FILE,
    Scored,
    described_files,
)
from data_handler.corpus.writing import write_rows
from data_handler.errors import DataError, DataRequestError
from data_handler.influence import GradientSketcher
from data_handler.influence.estimators import DataInf, PreconditionedCosine, TracIn
from data_handler.packing import Piece, filling, pack
from wf_formats.atomic import atomic_write_json
from wf_formats.content import folder_digest
from wf_formats.errors import RequestError
from wrinklefree.data_choice.candidates import Candidate, Sample, sample
from wrinklefree.data_choice.pictures import write_picture
from wrinklefree.data_choice.probes import PACKAGED, open_model, probe_hashes
from wrinklefree.data_choice.progress import bar
from wrinklefree.data_choice.sketch_parts import PROBE, Part, Sketches, SketchParts
from wrinklefree.data_choice.working import check_minutes, working_folder
from wrinklefree.model_checks import ModelFacts, check_context

ESTIMATORS = {"cosine": PreconditionedCosine, "datainf": DataInf, "tracin": TracIn}
"""Those that need no more than a model: of a running optimizer's moments nothing is known here."""
BY = (BY_DOCUMENT, BY_DOMAIN)
SKETCHES_FOLDER, PICTURE_FILE = "sketches", "scores.png"
_ROW_TOKENS = 1024
"""Of a backward pass: logits of these and of the vocabulary are in memory."""
_PART_DOCUMENTS = 16
_MOST_DOCUMENTS_PER_S = 50
"""More than any model here can do: how many candidates are held for the time that there is."""


@dataclass(frozen=True)
class ScoreRequest:
    """tokens: of a document, at most. probe_documents: at most. size: numbers of a sketch. blocks: gradients
    of the matrices of so many of the last ones. One of minutes and documents is given."""

    model: str
    domains: Sequence[Domain]
    probe: Domain
    reading: Reading
    estimator: str
    by: str
    minutes: float | None
    documents: int | None
    tokens: int
    probe_documents: int
    size: int
    blocks: int
    seed: int

    def __post_init__(self) -> None:
        """Raises: RequestError."""
        if self.estimator not in ESTIMATORS:
            raise RequestError(f"--estimator {self.estimator!r} is not one of {', '.join(ESTIMATORS)}")
        if self.by not in BY:
            raise RequestError(f"--by {self.by!r} is not one of {', '.join(BY)}")
        if self.minutes is not None:
            check_minutes(self.minutes)
        if any(domain.name == self.probe.name for domain in self.domains):
            raise RequestError(
                f"a file and the probe are both called {self.probe.name!r}: give one another NAME="
            )

    def to_json(self) -> dict[str, Any]:
        """What scores depend on."""
        return {
            "model": self.model,
            "model_digest": PACKAGED if self.model == PACKAGED else folder_digest(Path(self.model)),
            "probe": {"name": self.probe.name, "files": described_files(self.probe)},
            "files": [{"name": domain.name, "files": described_files(domain)} for domain in self.domains],
            "reading": asdict(self.reading),
            "by": self.by,
            "tokens": self.tokens,
            "probe_documents": self.probe_documents,
            "size": self.size,
            "blocks": self.blocks,
            "seed": self.seed,
        }


def run_score(request: ScoreRequest, folder: Path, begun_s: float, force: bool) -> dict[str, Any]:
    """The report, which scores.json is.

    Args: begun_s: of time.monotonic(), when this start began.

    Raises: UserError.
    """
    source = open_model(request.model)
    context = source.settings.get("max_position_embeddings")
    check_context("--tokens", request.tokens, ModelFacts(source.settings["model_type"], context))
    names = (ROWS_FILE, REPORT_FILE, PICTURE_FILE, SKETCHES_FOLDER)
    with working_folder(folder, names, force):
        if (folder / REPORT_FILE).exists():
            raise RequestError(
                f"{folder} has scores already: choose another --output, or replace them with --force"
            )
        parts = SketchParts(folder / SKETCHES_FOLDER, request.to_json())
        found, probe = _documents(request, source.tokenizer)
        report = _scored(request, found, _Sketching(request, source, parts, begun_s), probe, folder)
        shutil.rmtree(folder / SKETCHES_FOLDER)
        return report


def _documents(request: ScoreRequest, tokenizer: Any) -> tuple[Sample, list[Candidate]]:
    """What may be scored, and the probe. Raises: DataRequestError where nothing is left beside the probe."""
    known = probe_hashes(request.probe, request.reading)
    most = request.documents
    if most is None:
        assert request.minutes is not None
        most = max(_PART_DOCUMENTS, math.ceil(request.minutes * 60 * _MOST_DOCUMENTS_PER_S))
    common = {"seed": request.seed, "tokenizer": tokenizer, "most_tokens": request.tokens}
    probe = sample(
        [request.probe], request.reading, (), request.probe_documents, evenly=False, **common
    ).candidates
    found = sample(request.domains, request.reading, known, most, evenly=request.by == BY_DOMAIN, **common)
    if not found.candidates:
        raise DataRequestError(
            f"nothing is left to score: all {len(found.of_probe)} documents are the probe's; give other files"
        )
    return found, probe


class _Sketching:
    """Sketches of candidates in parts, from the disk where they are there."""

    def __init__(
        self, request: ScoreRequest, source: bitnet_arch.DenseSource, parts: SketchParts, begun_s: float
    ) -> None:
        self._request, self._source, self._parts = request, source, parts
        self._sketcher: GradientSketcher | None = None
        self._begun_s = begun_s
        self._earlier_s = 0.0

    def of_probe(self, probe: Sequence[Candidate]) -> Sketches:
        return np.concatenate([self._part(f"{PROBE}-{n:06}", rows).sketches for n, rows in _in_parts(probe)])

    def of(self, candidates: Sequence[Candidate]) -> Sketches:
        """Of the first candidates, as many as the time allows, at least one part."""
        found: list[Part] = []
        with bar("gradients", 1.0) as shown:
            for number, rows in _in_parts(candidates):
                if found and not self._has_time_for(found[-1].seconds):
                    break
                found.append(self._part(f"{number:06}", rows))
                done = sum(len(part.sketches) for part in found)
                shown.update(self._share(done, len(candidates)), f"{done:,} documents")
        return np.concatenate([part.sketches for part in found])

    def _share(self, done: int, of: int) -> float:
        by_number = done / of
        if self._request.minutes is None:
            return by_number
        return max(by_number, self._spent_s / (60 * self._request.minutes))

    @property
    def _spent_s(self) -> float:
        return self._earlier_s + time.monotonic() - self._begun_s

    def _has_time_for(self, seconds: float) -> bool:
        minutes = self._request.minutes
        return minutes is None or self._spent_s + seconds <= 60 * minutes

    def _part(self, name: str, rows: Sequence[Candidate]) -> Part:
        if (part := self._parts.read(name)) is not None:
            self._earlier_s += part.seconds
            return part
        start_s = time.monotonic()
        sketches = self._made(rows)
        part = Part(sketches, time.monotonic() - start_s)
        self._parts.write(name, part)
        return part

    def _made(self, rows: Sequence[Candidate]) -> Sketches:
        if self._sketcher is None:
            request = self._request
            model, _ = self._source.load()
            names = [f"{name}.*" for name, _ in blocks(model)][-request.blocks :]
            self._sketcher = GradientSketcher(model, names, request.size, request.seed)
        size = max(1, _ROW_TOKENS // self._request.tokens)
        eos = self._source.tokenizer.eos_token_id
        batches = [_batch(rows[start : start + size], eos) for start in range(0, len(rows), size)]
        return torch.cat([self._sketcher.per_example(batch) for batch in batches]).numpy(force=True)


def _in_parts(candidates: Sequence[Candidate]) -> list[tuple[int, Sequence[Candidate]]]:
    starts = range(0, len(candidates), _PART_DOCUMENTS)
    return [(n, candidates[start : start + _PART_DOCUMENTS]) for n, start in enumerate(starts)]


def _batch(rows: Sequence[Candidate], eos: int) -> dict[str, torch.Tensor]:
    """Each document in a row of its own, as long as the longest."""
    length = max(len(row.tokens) for row in rows)
    pieces = [
        piece
        for row in rows
        for piece in (Piece(row.tokens), filling(length - len(row.tokens), eos))
        if len(piece.tokens)
    ]
    return pack(pieces, length, eos)


def _scored(
    request: ScoreRequest, found: Sample, sketching: _Sketching, probe: Sequence[Candidate], folder: Path
) -> dict[str, Any]:
    """Raises: DataError where the time was too short for some domain that is to be ranked."""
    probe_sketches = torch.from_numpy(sketching.of_probe(probe))
    sketches = torch.from_numpy(sketching.of(found.candidates))
    candidates, estimator = found.candidates[: len(sketches)], ESTIMATORS[request.estimator]()
    scores: list[float] = estimator.scores(sketches, probe_sketches).tolist()
    scored = [
        Scored(one.domain, one.file, one.line, one.num_tokens, score)
        for one, score in zip(candidates, scores, strict=True)
    ]
    domains = [_described(domain, found, scored) for domain in request.domains]
    if request.by == BY_DOMAIN:
        if missing := [entry["name"] for entry in domains if not entry["scored"]]:
            raise DataError(
                f"nothing of {missing[0]!r} was scored: give more --minutes or --documents, or fewer --tokens"
            )
        means = [sketches[[row.domain == entry["name"] for row in scored]].mean(0) for entry in domains]
        for entry, score in zip(
            domains, estimator.scores(torch.stack(means), probe_sketches).tolist(), strict=True
        ):
            entry["score"] = score
        domains.sort(key=lambda entry: -entry["score"])
    report = request.to_json() | {
        "estimator": request.estimator,
        "scored": len(scored),
        "probe_scored": len(probe),
        "left_out": found.of_probe,
        "domains": domains,
    }
    write_rows(
        folder / ROWS_FILE, domains if request.by == BY_DOMAIN else (row.to_json() for row in _placed(scored))
    )
    write_picture(folder / PICTURE_FILE, report, scored)
    atomic_write_json(folder / REPORT_FILE, report)  # last: it says that the rest is there
    return report


def _placed(scored: Sequence[Scored]) -> list[Scored]:
    """In the order of the files."""
    return sorted(scored, key=lambda row: (row.domain, row.file, row.line))


def _described(domain: Domain, found: Sample, scored: Sequence[Scored]) -> dict[str, Any]:
    rows = [row for row in scored if row.domain == domain.name]
    return {
        "name": domain.name,
        "files": described_files(domain),
        "documents": found.num_documents[domain.name],
        "scored": len(rows),
        "tokens": sum(row.num_tokens for row in rows),
    } | _statistics([row.score for row in rows])


def _statistics(scores: Sequence[float]) -> dict[str, Any]:
    """Of documents' scores; None where there are too few."""
    if not scores:
        return {"mean": None, "standard_error": None, "quartiles": None}
    error = float(np.std(scores, ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else None
    quartiles = [float(value) for value in np.quantile(scores, (0.25, 0.5, 0.75))]
    return {"mean": float(np.mean(scores)), "standard_error": error, "quartiles": quartiles}
