"""A command that runs elsewhere may name no file that stays here; told before a machine is rented.

Hydra's own parser reads the overrides, so strings inside lists and maps count as well. A string is a path if
it begins like one (`/`, `~`, `./`, `../`, `file:`), or if there is such a file or folder where `wf` was
called. Names of hubs look like relative paths, so one that is not here is none, but for `start_from` and the
`location` beside `kind: path`. An interpolation has its value where only the environment is asked; any other
is refused where a path may come of it.
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
_KIND, _LOCATION = "kind", "location"
"""A source of kind `path` is files; the data package has the names."""
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


@dataclass(frozen=True)
class _Text:
    """A string of an override.

    Attributes:
        key: Of the override.
        place: Where the string is in the configuration, such as data.sources.0.location.
        text: With variables of the environment as they are here.
        is_known: Whether that was all it refers to.
    """

    argument: str
    key: str
    place: str
    text: str
    is_known: bool

    @property
    def name(self) -> str:
        return self.place.rpartition(".")[2]


def refuse_files_that_stay(command: Sequence[str], destination: Destination) -> None:
    """Raises: CommandRequestError for the first override that names a file of this machine alone, or may."""
    texts = [text for given in override_values(command) for text in _texts(*given)]
    locations = {
        f"{one.place.removesuffix(_KIND)}{_LOCATION}."
        for one in texts
        if one.name == _KIND and (one.text == "path" or not one.is_known)
    }
    for one in texts:
        if one.key in destination.other_keys:
            continue
        is_a_path = one.name == _ALWAYS_A_PATH or f"{one.place}.".startswith(tuple(locations))
        if not one.is_known and _may_be_a_path(one.text, is_a_path):
            raise CommandRequestError(
                f"{printable(one.argument)}: {printable(one.text)!r} refers to what is not known here, and "
                f"may be a path of this machine; write it out, or {destination.fix}"
            )
        if _stays(one.key, one.text, is_a_path, destination):
            raise CommandRequestError(
                f"{printable(one.argument)}: {printable(one.text)!r} is a path of this machine, which the "
                f"job does not see; {destination.fix}"
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


def _texts(argument: str, key: str, value: Any, place: str | None = None) -> Iterator[_Text]:
    """All strings of an override's value."""
    place = key if place is None else place
    if isinstance(value, str):
        resolved = _resolved(value)
        if isinstance(resolved, dict | list):
            yield from _texts(argument, key, resolved, place)
        elif resolved is None or isinstance(resolved, str):
            yield _Text(argument, key, place, resolved or value, is_known=resolved is not None)
    elif isinstance(value, dict | list):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        for name, child in children:
            yield from _texts(argument, key, child, f"{place}.{name}")


def _resolved(text: str) -> Any:
    """With variables of the environment as they are here; None where it refers to anything else."""
    if "${" not in text:
        return text
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.create({"value": text}), resolve=True)["value"]  # type: ignore[index, call-overload]  # a dict
    except OmegaConfBaseException:
        return None


def _is_url(text: str) -> bool:
    return _URL.match(text) is not None and not text.lower().startswith("file:")


def _may_be_a_path(text: str, is_a_path: bool) -> bool:
    """Of a text that is known in part: what begins as an absolute path or as a URL is judged by that."""
    return not text.startswith("/") and not _is_url(text) and (is_a_path or "/" in text)


def _stays(key: str, text: str, is_a_path: bool, destination: Destination) -> bool:
    if _is_url(text):
        return False
    if text.startswith("/"):
        return not destination.knows(os.path.normpath(text) + "/" * text.endswith("/"))
    if text.lower().startswith("file:") or text.startswith("~"):
        return _BEGINS_LIKE_A_PATH.match(text) is not None
    is_name = "/" not in text and "." not in key and not is_a_path
    if not text or "\0" in text or is_name:
        return False
    there = _found(destination.folder, text)
    if there and all(map(destination.has, there)):
        return False
    begins_like_a_path = _BEGINS_LIKE_A_PATH.match(text) is not None
    return is_a_path or begins_like_a_path or bool(_found(destination.called_from, text))


def _found(folder: Path, text: str) -> list[Path]:
    """The files and folders of a relative path, in which there may be wildcards."""
    path = Path(os.path.normpath(folder / text))
    try:
        if os.path.lexists(path):
            return [path]
    except OSError:  # longer than a name can be
        return []
    return [Path(one) for one in glob(str(path))] if has_magic(text) else []
