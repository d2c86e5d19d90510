"""The exports below a folder: where commands look for a model when none is given, and what `wf list` shows.

    *.gguf, outputs/**/*.gguf                             GGUF files
    */, outputs/**/ with the wrinklefree.json of an export  Hugging Face folders
    outputs/models/ORG/NAME/                              what `wf pull` fetches

An adapter of low-rank corrections is no model. Nothing is read but names, times and heads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from wf_formats.errors import RequestError, reason_of
from wf_formats.file_names import CONFIG_FILE, META_FILE, TOKENIZER_FILE
from wf_formats.json_file import read_value
from wf_formats.urls import meant_url

OUTPUTS = Path("outputs")
MODELS = OUTPUTS / "models"
"""Where pulled models are, below the folder of the command."""
HUB_PREFIX = "hub:"
"""Before the `ORG/NAME` of a repository."""
GGUF_SUFFIX = ".gguf"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
REMEDIES = (
    "`wf quickstart` makes one, `wf export --checkpoint FOLDER --output NAME.gguf` writes "
    "one of a checkpoint, `wf pull ORG/NAME` fetches one from the hub"
)
NONE_HERE = f"no export is here: {REMEDIES}"


def find_exports(root: Path = Path()) -> Iterator[Path]:
    """GGUF files and exported folders, the newest first; each is looked into when its turn comes."""
    return (path for path in _by_age(root) if is_export(path))


def newest_export(root: Path = Path(), skipped: Callable[[Path, str], None] = lambda *_: None) -> Path:
    """The newest that can be read, as far as heads and sizes of files say.

    Args:
        skipped: gets a newer one that cannot, and why: a model that is half written must not stop those
            that are there.

    Raises:
        RequestError: there is none.
    """
    num_skipped = 0
    for path in _by_age(root):
        try:
            if _is_whole_export(path):
                return path
        except (ValueError, OSError) as error:
            num_skipped += 1
            skipped(path, reason_of(error, path))
    if num_skipped:
        raise RequestError(f"no export here can be read ({num_skipped} skipped): {REMEDIES}")
    raise RequestError(NONE_HERE)


def is_export(path: Path) -> bool:
    """Whether a path is a GGUF file of a model, or a folder that was exported."""
    try:
        if path.is_dir():
            return _is_exported_folder(path)
        return path.suffix == GGUF_SUFFIX and path.is_file() and not _is_adapter(path)
    except OSError:
        return False


def named_model(given: str, root: Path = Path()) -> str:
    """A model by path or URL as it is given, or `ORG/NAME` (`hub:ORG/NAME`) that was pulled.

    A folder of one GGUF file, and no other model, stands for the file.

    Raises:
        RequestError: it is empty; the folder has several; what is of the hub was not pulled.
    """
    if not given.removeprefix(HUB_PREFIX).strip():
        raise RequestError(f"{given!r} names no model: leave it out for the newest export, or give a path")
    if meant_url(given) is not None:
        return given
    name = given.removeprefix(HUB_PREFIX)
    path, pulled = Path(given), root / MODELS / name
    if name != given and not pulled.is_dir():
        raise RequestError(f"{name} is not in {MODELS}: `wf pull {name}` fetches it")
    if not path.exists() and pulled.is_dir():
        path = pulled
    elif not path.exists() and _REPOSITORY.fullmatch(name) and path.suffix != GGUF_SUFFIX:
        raise RequestError(
            f"there is no folder {name}, neither here nor in {MODELS}: `wf pull {name}` fetches it"
        )
    elif not path.is_dir():
        return given
    return str(_within(path))


def record_file(path: Path) -> Path:
    """Whose time of change is the export's: the file itself, a folder's record."""
    return path / META_FILE if path.is_dir() else path


def size_bytes(path: Path) -> int:
    """Of a file, or of all in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _by_age(root: Path) -> list[Path]:
    """What may be an export, the newest first."""
    times = {path: _changed_s(path) for path in (*_of_top(root), *_below(root / OUTPUTS))}
    dated = [(-time_s, str(path), path) for path, time_s in times.items() if time_s is not None]
    return [path for _, _, path in sorted(dated)]


def _changed_s(path: Path) -> float | None:
    """None for what is neither, is gone meanwhile, or may not be read."""
    if path.suffix != GGUF_SUFFIX and not path.is_dir():
        return None
    try:
        return record_file(path).stat().st_mtime
    except OSError:
        return None


def _within(folder: Path) -> Path:
    if (folder / CONFIG_FILE).exists():
        return folder
    files = [path for path in sorted(folder.glob(f"*{GGUF_SUFFIX}")) if is_export(path)]
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise RequestError(f"{folder} has several models ({names}): give one of its files")
    return files[0] if files else folder


def _of_top(root: Path) -> Iterator[Path]:
    """What lies in the folder itself; its other folders are not walked through."""
    for entry in sorted(root.iterdir()):
        if entry.name != OUTPUTS.name and not entry.name.startswith("."):
            yield entry


def _below(folder: Path) -> Iterator[Path]:
    """All folders and GGUF files, but what is hidden (unfinished) and what links lead to."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in folders if not Path(place, name).is_symlink())
        yield from (
            Path(place, name) for name in files if name.endswith(GGUF_SUFFIX) and not name.startswith(".")
        )


def _is_exported_folder(folder: Path) -> bool:
    if not (folder / CONFIG_FILE).is_file():
        return False
    try:
        record = read_value(folder / META_FILE, ValueError)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("export"), dict)


def _is_whole_export(path: Path) -> bool:
    """As `is_export`.

    Raises:
        ValueError, OSError: it is one, and cannot be read.
    """
    if not path.is_dir():
        return path.is_file() and not _holds_adapter(path)
    if not _is_exported_folder(path):
        return False
    from wf_formats.safetensors_file import open_folder, open_safetensors

    if not isinstance(read_value(path / CONFIG_FILE, ValueError), dict):
        raise ValueError(f"{CONFIG_FILE} is no object of JSON")
    open_folder(path)
    for file in path.glob("*.safetensors"):  # those of no index too
        open_safetensors(file)
    if not (path / TOKENIZER_FILE).is_file():
        raise ValueError(f"its {TOKENIZER_FILE} is missing")
    return True


def _is_adapter(path: Path) -> bool:
    """False for what cannot be read too: who opens it says what is wrong with it."""
    try:
        return _holds_adapter(path)
    except (ValueError, OSError):
        return False


def _holds_adapter(path: Path) -> bool:
    from wf_formats.gguf import open_gguf
    from wf_formats.models.gguf_adapter import is_adapter

    return is_adapter(open_gguf(path))
