"""The stages that a checkpoint passed through, from what its runs wrote beside it.

    RUN/run.json            values of the configuration, and `parent`: the digest of the checkpoint before
    RUN/final               the result: wrinklefree.json, manifest.json (whose digest that is), figures.json
    RUN/checkpoints/step_*  one of a run that goes on

A run is taken for a checkpoint's only if both carry the same fingerprint, a checkpoint for the parent only
if its manifest has that digest; it is looked for beside the run, where a chain of stages puts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wf_converter.card_record import StagePassed
from wf_converter.repository import id_fault
from wf_formats.digests import file_sha256
from wf_formats.file_names import META_FILE
from wf_formats.json_file import read_json
from wf_formats.run_files import FIGURES_FILE, FINAL, MANIFEST_FILE, RUN_FILE

_CHECKPOINTS = ("*/final", "*/checkpoints/*")


@dataclass(frozen=True)
class History:
    """Stages in their order, and data sets of the hub that they read."""

    stages: list[StagePassed]
    is_whole: bool
    """Whether the first stage began with the dense model."""
    datasets: list[str]


def history_of(folder: Path) -> History:
    """Of a checkpoint folder.

    Raises:
        LoadError: a record is damaged.
    """
    stages, datasets, is_whole = [], dict[str, None](), False
    current: Path | None = folder.resolve()
    while current is not None:
        meta = read_json(current / META_FILE)
        run_folder, values = _run(current, meta)
        if isinstance(meta.get("stage"), str):
            stages.append(_stage(current, meta))
        datasets |= dict.fromkeys(_hub_datasets(values))
        parent = values.get("parent", "")
        is_whole = parent is None
        current = _with_manifest(run_folder.parent, parent) if parent else None
    return History(stages[::-1], is_whole, sorted(datasets))


def _run(folder: Path, meta: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Folder of a checkpoint's run, and the values of its configuration; none where that is not known."""
    run_folder = folder.parent if folder.name == FINAL else folder.parent.parent
    if not (run_folder / RUN_FILE).is_file():
        return run_folder, {}
    run = read_json(run_folder / RUN_FILE)
    is_its_own = run.get("fingerprint") == meta.get("fingerprint") and isinstance(run.get("values"), dict)
    return run_folder, run["values"] if is_its_own else {}


def _stage(folder: Path, meta: dict[str, Any]) -> StagePassed:
    path = folder / FIGURES_FILE
    figures = read_json(path) if path.is_file() else {}
    seconds = figures.get("seconds")
    return StagePassed(
        stage=meta["stage"],
        steps=_count(figures.get("steps", meta.get("step"))),
        tokens=_count(figures.get("tokens")),
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _hub_datasets(values: dict[str, Any]) -> Iterator[str]:
    sources = values.get("data.sources")
    for source in sources if isinstance(sources, list) else ():
        if not isinstance(source, dict) or source.get("kind") != "hub":
            continue
        location = source.get("location")
        is_folder = isinstance(location, str) and Path(location).exists()  # which a source may name too
        if isinstance(location, str) and not is_folder and id_fault(location) is None:
            yield location


def _with_manifest(folder: Path, digest: str) -> Path | None:
    """The checkpoint below a folder of runs whose manifest has this SHA-256."""
    for pattern in _CHECKPOINTS:
        for checkpoint in sorted(folder.glob(pattern)):
            manifest = checkpoint / MANIFEST_FILE
            if manifest.is_file() and (checkpoint / META_FILE).is_file() and file_sha256(manifest) == digest:
                return checkpoint
    return None
