"""What the local files that a run reads hold: part of its identity, beside the paths in its configuration.

Digests by key: `content.model`, `content.teacher` for folders of models, `content.data.<source>` for text
(wf_formats.content says what counts). What is missing has none; it is refused where it is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_handler import DataError, SourceConfig, SourceKind
from data_handler.sources.files import expand
from wf_formats.content import file_digest, folder_digest, joined
from wf_formats.packaged import ModelSource
from wrinklefree.config.root import TrainConfig

CONTENT = "content."
DATA_CONTENT = f"{CONTENT}data."


def contents_of(config: TrainConfig) -> dict[str, str]:
    """Digests of everything local, by key. Raises: OSError for a file that cannot be read."""
    teacher = config.model.teacher
    found = {
        f"{CONTENT}model": _folder(config.model.source, config.model.name),
        f"{CONTENT}teacher": _folder(getattr(teacher, "source", None), getattr(teacher, "name", None)),
        **{f"{DATA_CONTENT}{source.name}": _text(source) for source in config.data.sources},
    }
    return {key: digest for key, digest in found.items() if digest is not None}


def _folder(source: Any, name: str | None) -> str | None:
    if source is not ModelSource.path or not name or not Path(name).is_dir():
        return None
    return folder_digest(Path(name))


def _text(source: SourceConfig) -> str | None:
    if source.kind is not SourceKind.path:
        return None
    try:
        files = expand(source)
    except DataError:  # said with the source's other faults when it is opened
        return None
    return joined(map(file_digest, files))
