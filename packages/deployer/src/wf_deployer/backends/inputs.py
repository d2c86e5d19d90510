"""What a machine elsewhere reads: files and folders of this machine, which are sent, and what it fetches.

    a path                               sent along
    gs://, s3://                         a store, by `wf store get`
    hub:OWNER/NAME[/FILE][@REVISION]     the Hugging Face hub

What is named like a secret (sync/excludes.py) is not sent with a folder.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from wf_deployer.errors import CommandRequestError
from wf_deployer.sync.excludes import exclude_of
from wf_formats.exports import HUB_PREFIX
from wf_formats.printable import printable
from wf_formats.secrets import redacted
from wf_formats.urls import meant_url

_HUB = re.compile(HUB_PREFIX + r"(\w[\w.-]*/\w[\w.-]*)(?:/(\w[\w./-]*\.gguf))?(?:@(\w[\w./-]*))?", re.ASCII)
_FETCH_URL = '"$python" -m wf_stores.main get {url} {target}'
_FETCH_HUB = '"${{python%/*}}/hf" download {words} --local-dir {target}'


def is_fetched(place: str, shown: str) -> bool:
    """Whether the machine that needs it fetches it; else it is a path of this machine.

    Args:
        shown: How it was given, for messages.

    Raises:
        CommandRequestError: it is, or was meant as, what cannot be fetched.
    """
    if place.startswith(HUB_PREFIX):
        if _HUB.fullmatch(place) is None:
            raise CommandRequestError(
                f"{shown}: write hub:OWNER/NAME, hub:OWNER/NAME/FILE.gguf, or either with @REVISION"
            )
        return True
    if (url := meant_url(place)) is None:
        return False
    if not url.startswith(("gs://", "s3://")) or url != place or redacted(url) != url:
        raise CommandRequestError(
            f"{redacted(shown)}: a machine elsewhere fetches gs://, s3:// and hub:OWNER/NAME"
        )
    return True


def fetch_command(place: str, target: str) -> str:
    """Bash that makes a folder of what is fetched, with `$python` of its environment.

    Args:
        target: The new folder, as bash writes it.
    """
    if (match := _HUB.fullmatch(place)) is None:
        return _FETCH_URL.format(url=shlex.quote(place), target=target)
    words = [match[1], *([match[2]] if match[2] else []), *(["--revision", match[3]] if match[3] else [])]
    return _FETCH_HUB.format(words=shlex.join(words), target=target)


def file_in_repository(place: str) -> str | None:
    """The file that a `hub:` id names."""
    match = _HUB.fullmatch(place)
    return None if match is None else match[2]


def files_to_send(place: Path, names: Sequence[str] = ()) -> list[str]:
    """Paths below a folder that are sent, `names` or all but secrets; of a file an empty path.

    Raises:
        CommandRequestError: it is not there; one of them is no file, or cannot be read.
    """
    if not place.is_dir():
        _require_file(place)
        _refuse_secret(place, place.name)
        return [""]
    for name in names:
        _refuse_secret(place / name, name)
    found = list(names) or [name for name in _files_below(place) if exclude_of(name, is_link=False) is None]
    if not found:
        raise CommandRequestError(f"{printable(str(place))} has no files to send: name another folder")
    for name in found:
        _require_file(place / name)
    return found


def copy_place(place: Path, target: Path, names: Sequence[str] = ()) -> None:
    """Makes `target` a copy of a file or folder, without a second copy of its bytes where that can be."""
    for name in files_to_send(place, names):
        there = target / name if name else target
        there.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(place / name if name else place, there)


def _files_below(folder: Path) -> Iterator[str]:
    for where, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]  # not followed
        yield from (os.path.relpath(os.path.join(where, name), folder) for name in sorted(files + links))


def _require_file(path: Path) -> None:
    if not path.is_file():
        what = "is no regular file" if os.path.lexists(path) else "is not there"
        raise CommandRequestError(f"{printable(str(path))} {what}, and would be sent: mend or remove it")
    if not os.access(path, os.R_OK):
        raise CommandRequestError(f"{printable(str(path))} cannot be read: change its permissions")


def _refuse_secret(path: Path, name: str) -> None:
    if exclude_of(name, is_link=False) is not None:
        raise CommandRequestError(
            f"{printable(str(path))} is named like a secret, and those are never sent: move or rename it"
        )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
