"""Command line: an export from the Hugging Face hub into the folder of models.

1. The branch's newest commit is looked at: its files, their sizes and hashes. Only what a model folder or a
   GGUF file consists of is fetched; nothing in it is code.
2. Files go into `.NAME.part` beside the folder to be. What is there when the connection is cut or the process
   is killed stays: the same command goes on from it.
3. Each file is checked by the hub's hash (SHA-256 of large ones, git's of others) and by the export's own
   SHA256SUMS; then all of them become the folder at once, with a record of where they come from.

The token is the hub's own affair: HF_TOKEN, or what `hf auth login` stored. It is never shown.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wf_converter.command import console, run
from wf_formats.atomic import atomic_folder, atomic_write_json, errors_about
from wf_formats.digests import file_sha256
from wf_formats.errors import RequestError, UserError
from wf_formats.exports import GGUF_SUFFIX, HUB_PREFIX, MODELS
from wf_formats.file_names import CARD_FILE, CONFIG_FILE, MODEL_FILES
from wf_formats.json_file import read_value
from wf_formats.locks import try_lock
from wf_formats.printable import printable
from wf_formats.targets import FolderKind, check_folder, check_way

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

RECORD_FILE = "pulled.json"
"""Of a pulled folder: the repository, the commit and the names of its files."""
_SUMS_FILE = "SHA256SUMS"
_WANTED = (f"*{GGUF_SUFFIX}", *MODEL_FILES, CARD_FILE, _SUMS_FILE)
_MOST_SUMS_BYTES = 1 << 20
_ROOM_BYTES = 50_000_000
"""Left free beside what is fetched."""

Output = Annotated[Path | None, typer.Option(help=f"Folder for it; {MODELS}/ORG/NAME if not given.")]
Revision = Annotated[str, typer.Option(help="Branch, tag or commit.")]
File = Annotated[
    list[str] | None,
    typer.Option(help="Only this file of several GGUF files, with the card; may be repeated."),
]


class PullError(UserError):
    """What arrived is not what the hub has."""


def _record_of(folder: Path) -> dict[str, Any]:
    try:
        record = read_value(folder / RECORD_FILE, ValueError)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _files_of(folder: Path) -> Sequence[str]:
    from glob import escape

    files = _record_of(folder).get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        return ()
    return [RECORD_FILE, *map(escape, files)]


PULLED = FolderKind("a pulled model", _files_of)


def pull(
    repository: Annotated[str, typer.Argument(help="ORG/NAME, or hub:ORG/NAME.")],
    output: Output = None,
    revision: Revision = "main",
    file: File = None,
) -> None:
    """Fetch an export from the Hugging Face hub, checked, and resumed where it was cut off.

    HF_TOKEN opens private repositories; HF_ENDPOINT names another hub.

    Examples:

      wf pull my-name/mine

      wf run my-name/mine
    """
    from wf_converter.repository import id_fault

    name = repository.removeprefix(HUB_PREFIX)
    if (fault := id_fault(name)) is not None or "/" not in name:
        reason = fault or "give it as ORG/NAME"
        raise RequestError(f"{name!r:.120} is no repository of the hub: {reason}")
    check_way(output or MODELS / name)
    target = Path(os.path.abspath(output or MODELS / name))
    check_folder(target, PULLED)
    fetched = _fetch(name, revision, target, file or ())
    verb = "pulled" if fetched.is_new else "unchanged:"
    console.print(f"{verb} {name} at {fetched.commit[:12]}", soft_wrap=True)
    typer.echo(printable(str(output or MODELS / name), most_chars=None))


@dataclass(frozen=True)
class Fetched:
    """is_new: whether anything was written."""

    commit: str
    is_new: bool


def _fetch(repository: str, revision: str, target: Path, named: Sequence[str]) -> Fetched:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import get_session, logging  # type: ignore[attr-defined]  # re-exported, unsaid

    from wf_converter.hub import STALLED_S, is_same, patiently, told

    api = HfApi()
    get_session().timeout = STALLED_S
    logging.set_verbosity_error()  # its warnings have URLs, which may be signed
    with told(repository), errors_about(target), _refusals(repository, revision):
        info = patiently(lambda: api.model_info(repository, revision=revision))
        commit = str(info.sha)
        tree = patiently(lambda: list(api.list_repo_tree(repository, revision=commit, recursive=True)))
        wanted = _wanted(repository, [entry for entry in tree if isinstance(entry, RepoFile)], named)
        names = [entry.path for entry in wanted]
        if _is_there(target, repository, commit, wanted):
            return Fetched(commit, is_new=False)
        with _staging(target) as staging:
            _check_room(staging, wanted)
            for entry in wanted:
                path = staging / entry.path
                if not (path.is_file() and is_same(entry, path)):
                    part = _part_of(staging, entry)
                    patiently(partial(_download, repository, entry, commit, part))
                    _check(is_same(entry, part), part, f"{entry.path} of {repository}")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(part, path)
            _check_sums(staging, names, repository)
            record = {"repository": repository, "revision": revision, "commit": commit, "files": names}
            with atomic_folder(target, PULLED) as temporary:
                for name in names:
                    (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staging / name, temporary / name)
                atomic_write_json(temporary / RECORD_FILE, record)
            shutil.rmtree(staging)
    return Fetched(commit, is_new=True)


def _part_of(staging: Path, entry: RepoFile) -> Path:
    """Where a file arrives: under its hash, so that what came of another version is not gone on with."""
    return staging / f".{entry.lfs.sha256 if entry.lfs else entry.blob_id}"


def _download(repository: str, entry: RepoFile, commit: str, part: Path) -> None:
    """What is missing of a file; `hf_hub_download` begins anew in every process."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # re-exported, unsaid

    url = hf_hub_url(repository, entry.path, revision=commit)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    with part.open("ab") as file:
        if file.tell() > entry.size:
            file.seek(0)
            file.truncate()
        name = printable(entry.path)
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=headers,
            expected_size=entry.size,
            displayed_filename=name,
        )


@contextmanager
def _refusals(repository: str, revision: str) -> Iterator[None]:
    """What the hub refuses to show, and the fix."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RevisionNotFoundError

    log_in = "log in with `hf auth login`, or set HF_TOKEN to a token that may read it"
    try:
        yield
    except RevisionNotFoundError as error:
        raise RequestError(f"{repository} has no revision {revision!r:.120}: check --revision") from error
    except GatedRepoError as error:
        raise RequestError(f"{repository} is gated: ask for access on its page, then {log_in}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            reason = f"{repository} is not there, or hidden ({status}): check the name, or {log_in}"
            raise RequestError(reason) from error
        raise


def _wanted(repository: str, files: list[RepoFile], named: Sequence[str]) -> list[RepoFile]:
    """What is fetched of a repository.

    Raises: RequestError where there is no model, or several.
    """
    known = [file for file in files if any(_is_match(file.path, pattern) for pattern in _WANTED)]
    ggufs = [file.path for file in known if file.path.endswith(GGUF_SUFFIX)]
    shown = ", ".join(printable(name) for name in ggufs) or "none"
    missing = [name for name in named if name not in ggufs]
    if missing:
        raise RequestError(f"{repository} has no file {missing[0]!r:.120}; its GGUF files: {shown}")
    has_folder = any(file.path == CONFIG_FILE for file in known)
    if not (ggufs or has_folder):
        raise RequestError(f"{repository} has no {CONFIG_FILE} and no {GGUF_SUFFIX} file: it is no export")
    is_one_export = has_folder or any(file.path == _SUMS_FILE for file in known)
    if len(ggufs) > 1 and not (named or is_one_export):
        raise RequestError(f"{repository} has several models ({shown}): give one with --file")
    if named:
        return [file for file in known if file.path in (*named, CARD_FILE)]
    return known


def _is_match(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _is_there(target: Path, repository: str, commit: str, wanted: list[RepoFile]) -> bool:
    record = _record_of(target)
    files = {file.path: file.size for file in wanted}
    return (
        (record.get("repository"), record.get("commit")) == (repository, commit)
        and record.get("files") == list(files)
        and all((target / name).is_file() for name in files)
        and all((target / name).stat().st_size == size for name, size in files.items())
    )


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """The folder of what has arrived; one process at a time has it.

    Raises: RequestError where another has.
    """
    folder = target.with_name(f".{target.name}.part")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not try_lock(descriptor):
            raise RequestError(f"another wf pull is fetching {target}: wait for it")
        yield folder
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        os.close(descriptor)


def _check_room(staging: Path, wanted: list[RepoFile]) -> None:
    there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    needed = max(0, sum(file.size for file in wanted) - there) + _ROOM_BYTES
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise RequestError(
            f"{needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free in {staging.parent}: make "
            "room, or choose another place with --output"
        )


def _check_sums(staging: Path, names: Sequence[str], repository: str) -> None:
    """The export's own checksums, of the files that they name."""
    sums = staging / _SUMS_FILE
    if _SUMS_FILE not in names or sums.stat().st_size > _MOST_SUMS_BYTES:
        return
    for line in sums.read_text("utf-8", errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        if name in names:
            is_right = file_sha256(staging / name) == expected
            _check(is_right, staging / name, f"{name} of {repository}")


def _check(is_right: bool, path: Path, what: str) -> None:
    if not is_right:
        path.unlink()
        raise PullError(f"{printable(what)} arrived damaged, and was removed: pull again")


def main() -> None:
    """Entry of `python -m wf_converter pull`."""
    run(pull, "python -m wf_converter pull")
