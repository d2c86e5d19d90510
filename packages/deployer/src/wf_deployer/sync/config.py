"""`.sync.conf`: which machines, and what to do there. It stands at the top of what is sent.

    [project]
    # folders to run `uv sync` in on the remote, separated by spaces
    uv_projects=. packages/tools
    # any number of them
    path_fix=pyproject.toml:/home/me/libs=>/data/libs

    # a preset; any number of them
    [desktop]
    host=me@desktop.example
    dir=~/wrinklefree
    port=2222
    key=~/.ssh/desktop

host is a name, an address or a Host of ~/.ssh/config; dir, when left out, is ~/ and the name of the
checkout's folder; port and key, when left out, are what ssh finds.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from wf_deployer.sync.ini import Line, Section, read_sections
from wf_deployer.sync.path_fix import PathFix, parse_path_fix
from wf_formats.errors import RequestError
from wf_formats.printable import printable

CONFIG_FILE = ".sync.conf"
PROJECT = "project"
PROJECT_KEYS = ("uv_projects", "path_fix")
PRESET_KEYS = ("host", "dir", "port", "key")
_HOST = re.compile(
    r"(?:[A-Za-z0-9_][\w.+-]*@)?"  # user
    r"(?:[A-Za-z0-9_][\w.-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?:%[\w.-]+)?)",  # name, IPv4 or IPv6 address
    re.ASCII,
)


@dataclass(frozen=True)
class Preset:
    """A machine and a folder there.

    Attributes:
        dir: As written; `~` and relative paths begin at the remote user's home.
        key: Private key file; None for what ssh finds by itself.
    """

    name: str
    host: str
    dir: str
    port: int | None = None
    key: Path | None = None

    @property
    def target(self) -> str:
        """For messages."""
        return f"{self.host}:{self.dir}" + ("" if self.port is None else f" (port {self.port})")


@dataclass(frozen=True)
class Config:
    """What a `.sync.conf` says. Attributes: root is its folder, which is what is sent."""

    file: Path
    presets: dict[str, Preset]
    uv_projects: tuple[str, ...] = ()
    path_fixes: tuple[PathFix, ...] = ()

    @property
    def root(self) -> Path:
        return self.file.parent

    def preset(self, name: str) -> Preset:
        """Raises: RequestError for a name that is not in the file."""
        if name not in self.presets:
            known = ", ".join(self.presets)
            raise RequestError(f"{printable(name)!r} is not a preset of {self.file}; there is {known}")
        return self.presets[name]


def find_config(start: Path) -> Config:
    """The `.sync.conf` in `start` or the nearest folder above. Raises: RequestError: none, or a wrong one."""
    folder = start.resolve()
    for parent in (folder, *folder.parents):
        if (parent / CONFIG_FILE).is_file():
            return read_config(parent / CONFIG_FILE)
    raise RequestError(
        f"there is no {CONFIG_FILE} in {folder} or above: copy .sync.conf.example to {CONFIG_FILE} at the "
        "top of the checkout and edit it"
    )


def read_config(file: Path) -> Config:
    """Raises: RequestError naming file, line, value and fix."""
    sections = read_sections(file)
    presets = [_preset(section, file) for section in sections if section.name != PROJECT]
    if not presets:
        raise RequestError(f"{file} has no preset; add one, for example [desktop] and below it host=NAME")
    project = next((section for section in sections if section.name == PROJECT), Section(PROJECT, ""))
    _check_keys(project, PROJECT_KEYS, repeated=("path_fix",))
    fixes = [parse_path_fix(line.value, line.place) for line in project.lines if line.key == "path_fix"]
    projects = next((_projects(line) for line in project.lines if line.key == "uv_projects"), ())
    return Config(file, {preset.name: preset for preset in presets}, projects, tuple(fixes))


def _preset(section: Section, file: Path) -> Preset:
    _check_keys(section, PRESET_KEYS)
    values = {line.key: line for line in section.lines}
    if "host" not in values:
        raise RequestError(f"{section.place}: [{section.name}] has no host; add host=NAME below it")
    host = values["host"]
    if not _HOST.fullmatch(host.value):
        raise RequestError(
            f"{host.place}: host={printable(host.value)!r} is no host; write NAME or USER@NAME"
        )
    return Preset(
        section.name,
        host.value,
        _dir(values["dir"]) if "dir" in values else f"~/{file.parent.name}",
        _port(values["port"]) if "port" in values else None,
        _key(values["key"], file) if "key" in values else None,
    )


def _check_keys(section: Section, known: tuple[str, ...], repeated: tuple[str, ...] = ()) -> None:
    seen: dict[str, str] = {}
    for line in section.lines:
        if line.key not in known:
            close = get_close_matches(line.key, known, n=1)
            fix = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise RequestError(f"{line.place}: {printable(line.key)!r} is no key of [{section.name}]; {fix}")
        if line.key in seen and line.key not in repeated:
            raise RequestError(f"{line.place}: {line.key} was given in {seen[line.key]} already; remove one")
        seen[line.key] = line.place


def _dir(line: Line) -> str:
    if "$" in line.value or "`" in line.value:
        raise RequestError(
            f"{line.place}: dir={printable(line.value)!r} is taken literally, without variables; "
            "write ~ for home, or the whole path"
        )
    return line.value


def _port(line: Line) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", line.value) or not 1 <= int(line.value) <= 65535:
        raise RequestError(f"{line.place}: port={printable(line.value)!r} is not a number from 1 to 65535")
    return int(line.value)


def _key(line: Line, file: Path) -> Path:
    if set(line.value) & set("%$"):  # ssh replaces them
        raise RequestError(f"{line.place}: key={printable(line.value)!r} holds % or $; rename the file")
    path = file.parent / os.path.expanduser(line.value)
    if not path.is_file():
        raise RequestError(f"{line.place}: there is no key file {printable(str(path))}; check the path")
    return path


def _projects(line: Line) -> tuple[str, ...]:
    for name in line.value.split():
        parts = [] if name == "." else name.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise RequestError(
                f"{line.place}: uv_projects: {printable(name)!r} is not a plain path inside the checkout; "
                "write . for the checkout itself, packages/x for a folder in it"
            )
    return tuple(dict.fromkeys(line.value.split()))
