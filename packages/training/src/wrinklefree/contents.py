"""What the local files that a run reads hold: part of its identity, beside the paths in its configuration.

Digests by key (wf_formats.content says what counts; no path does):

    content.model            the folder of the model
    content.teacher[.PART]   what the teacher answers from, as it says (teachers/base.py: Teacher.contents)
    content.data.SOURCE      text of a source of kind path
    content.folder.SOURCE    the folder that a source of kind hub names instead of a repository
    content.probe.PROBE      text of a probe that steers the mixture, of kind path or from such a folder

What is missing has none; it is refused where it is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_handler import DataError, SourceConfig, SourceKind
from data_handler.sources.files import expand
from wf_formats.content import file_digest, joined, model_digest
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import GradientConfig
from wrinklefree.teachers.registry import contents_of_teacher

CONTENT = "content."
DATA_CONTENT = f"{CONTENT}data."


def contents_of(config: TrainConfig) -> dict[str, str]:
    """Digests of everything local, by key. Raises: OSError for a file that cannot be read."""
    found = {
        f"{CONTENT}model": model_digest(config.model.source, config.model.name),
        **{_of_teacher(part): digest for part, digest in contents_of_teacher(config).items()},
        **{f"{DATA_CONTENT}{source.name}": _text(source) for source in config.data.sources},
        **{f"{CONTENT}folder.{source.name}": _data_set(source) for source in config.data.sources},
        **{f"{CONTENT}probe.{probe.name}": _text(probe) or _data_set(probe) for probe in _probes(config)},
    }
    return {key: digest for key, digest in found.items() if digest is not None}


def _probes(config: TrainConfig) -> list[SourceConfig]:
    training = config.training
    return training.mixture.influence.probes if isinstance(training, GradientConfig) else []


def _of_teacher(part: str) -> str:
    return f"{CONTENT}teacher.{part}" if part else f"{CONTENT}teacher"


def _text(source: SourceConfig) -> str | None:
    if source.kind is not SourceKind.path:
        return None
    try:
        files = expand(source)
    except DataError:  # said with the source's other faults when it is opened
        return None
    return joined(map(file_digest, files))


def _data_set(source: SourceConfig) -> str | None:
    if source.kind is not SourceKind.hub or not Path(source.location).is_dir():
        return None
    folder = Path(source.location)
    return joined(f"{file.relative_to(folder)} {file_digest(file)}" for file in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    """Those below that are not hidden, in an order that is always the same."""
    for file in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not is_hidden:
            yield file
