"""A command that runs elsewhere may name no file that stays here; told before a machine is rented.

Hydra's own parser reads the overrides, so strings inside lists and maps count as well. A string is a path if
it begins like one (`/`, `~`, `./`, `../`, `file:`), or if there is such a file or folder where `wf` was
called. Names of hubs look like relative paths, so one that is not here is none, but for `start_from`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from wf_deployer.errors import CommandRequestError
from wf_formats.printable import printable

_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.@/-]*=.*", re.DOTALL)
_BEGINS_LIKE_A_PATH = re.compile(r"~[\w.-]*(/|\Z)|/|\.{1,2}(/|\Z)|file:", re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ALWAYS_A_PATH = "start_from"
_NO_DATA = ("__pycache__",)


@dataclass(frozen=True)
class Checkout:
    """The copy of a checkout that a job gets.

    Attributes:
        root: Of the checkout here.
        list_files: Answers the paths below it that go there; asked once, and not if no file is named.
    """

    root: Path
    list_files: Callable[[Path], Sequence[str]]

    @cached_property
    def files(self) -> frozenset[str]:
        return frozenset(self.list_files(self.root))

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(str(parent) for file in self.files for parent in Path(file).parents)

    def has(self, path: Path) -> bool:
        """Whether all of a file or folder is in the copy, and what a link leads to as well."""
        if not self._covers(path, self.root) or not path.exists():
            return False
        real_root = Path(os.path.realpath(self.root))
        return self._covers(Path(os.path.realpath(path)), real_root)

    def _covers(self, path: Path, root: Path) -> bool:
        if not path.is_relative_to(root):
            return False
        below = str(path.relative_to(root))
        if below in self.files or any(str(parent) in self.files for parent in Path(below).parents):
            return True
        return below in self._folders and all(file in self.files for file in _files_in(path, root))


def _files_in(folder: Path, root: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NO_DATA and not name.startswith(".")]
        yield from (os.path.relpath(os.path.join(place, name), root) for name in files if name[0] != ".")


@dataclass(frozen=True)
class Destination:
    """What a command finds where it runs.

    Attributes:
        called_from: Folder here.
        folder: Where it runs there, as a folder of the checkout here.
        has: Whether a file or folder of the checkout is there too.
        knows: Whether an absolute path may be one of there.
        fix: What to give instead, for the message.
        other_keys: Keys whose values somebody else sees to.
    """

    called_from: Path
    folder: Path
    has: Callable[[Path], bool]
    knows: Callable[[str], bool]
    fix: str
    other_keys: Collection[str] = ()


def refuse_files_that_stay(command: Sequence[str], destination: Destination) -> None:
    """Raises: CommandRequestError for the first override that names a file of this machine alone."""
    for argument in command:
        for key, text in _strings(argument):
            if key not in destination.other_keys and _stays(key, text, destination):
                raise CommandRequestError(
                    f"{printable(argument)}: {printable(text)!r} is a path of this machine, which the job "
                    f"does not see; {destination.fix}"
                )


def override_values(command: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """The overrides of a command as Hydra understands them: argument, key, value.

    Raises: CommandRequestError for one that is none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for argument in command:
        if not _OVERRIDE.fullmatch(argument):
            continue
        try:
            found = parser.parse_override(argument)
        except HydraException as error:
            reason = next(iter(str(error).splitlines()), "")
            raise CommandRequestError(f"{printable(argument)} is no override: {printable(reason)}") from error
        except RecursionError as error:
            raise CommandRequestError(f"{printable(argument)[:60]}... is nested too deeply") from error
        if found.is_sweep_override():
            raise CommandRequestError(f"{printable(argument)} is a sweep; give one value, and a job for each")
        yield argument, found.key_or_group, found.value()


def _strings(argument: str) -> Iterator[tuple[str, str]]:
    for _, key, value in override_values([argument]):
        yield from ((key, text) for text in _texts_in(value))


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield _resolved(value)
    elif isinstance(value, dict):
        for child in value.values():
            yield from _texts_in(child)
    elif isinstance(value, list):
        for child in value:
            yield from _texts_in(child)


def _resolved(text: str) -> str:
    """With variables of the environment as they are here; what else it refers to is not known here."""
    if "${" not in text:
        return text
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return str(OmegaConf.create({"value": text})["value"])
    except OmegaConfBaseException:
        return text


def _stays(key: str, text: str, destination: Destination) -> bool:
    if _URL.match(text) and not text.lower().startswith("file:"):
        return False
    if text.startswith("/"):
        return not destination.knows(text)
    if text.lower().startswith("file:") or text.startswith("~"):
        return _BEGINS_LIKE_A_PATH.match(text) is not None
    is_name = "/" not in text and "." not in key and not key.endswith(_ALWAYS_A_PATH)
    if not text or "\0" in text or is_name:
        return False
    there = _found(destination.folder, text)
    if there and all(map(destination.has, there)):
        return False
    is_a_path = key.rpartition(".")[2] == _ALWAYS_A_PATH or _BEGINS_LIKE_A_PATH.match(text) is not None
    return is_a_path or bool(_found(destination.called_from, text))


def _found(folder: Path, text: str) -> list[Path]:
    """The files and folders of a relative path, in which there may be wildcards."""
    path = Path(os.path.normpath(folder / text))
    try:
        if os.path.lexists(path):
            return [path]
    except OSError:  # longer than a name can be
        return []
    return [Path(one) for one in glob(str(path))] if has_magic(text) else []
