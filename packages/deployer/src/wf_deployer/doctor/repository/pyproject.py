"""pyproject.toml (PEP 517, 621, 735, Poetry) and setup.cfg."""

from __future__ import annotations

import configparser
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from wf_deployer.doctor.files import FileError, read_text, read_toml
from wf_deployer.doctor.repository.declared import Declarations, Kind, Wanted


def read_pyproject(root: Path, file: Path, into: Declarations) -> None:
    """Adds what it declares; tables of other tools are left alone."""
    try:
        settings = read_toml(root / file)
    except FileError as error:
        into.problems.append(str(error))
        return
    into.files.append(file)
    project = _table(settings, "project")
    add_all(project.get("dependencies"), file, Kind.needed, into)
    for extra, lines in _table(project, "optional-dependencies").items():
        add_all(lines, file, Kind.optional, into, extra)
    for group, lines in _table(settings, "dependency-groups").items():
        named = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else lines
        add_all(named, file, Kind.optional, into, group)
    add_all(_table(settings, "build-system").get("requires"), file, Kind.build, into)
    if isinstance(project.get("name"), str):
        into.names.add(canonicalize_name(project["name"]))
    if "requires-python" in project:
        add_python(project["requires-python"], file, into)
    dynamic = project.get("dynamic")
    for name in ("dependencies", "requires-python"):
        if isinstance(dynamic, list) and name in dynamic:
            into.computed.append(f"{file}: {name} is dynamic")
    poetry = _table(_table(settings, "tool"), "poetry")
    _read_poetry(_table(poetry, "dependencies"), file, Kind.needed, into)
    _read_poetry(_table(poetry, "dev-dependencies"), file, Kind.optional, into)
    for group in _table(poetry, "group").values():
        _read_poetry(_table(group, "dependencies"), file, Kind.optional, into)
    _read_sources(_table(_table(_table(settings, "tool"), "uv"), "sources"), file, into)


def read_setup_cfg(root: Path, file: Path, into: Declarations) -> None:
    """Adds what its sections `options` and `options.extras_require` declare."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(root / file), source=str(file))
    except FileError as error:
        into.problems.append(str(error))
        return
    except configparser.Error as error:
        into.problems.append(f"{file} is no setup.cfg: {str(error).splitlines()[0]}")
        return
    into.files.append(file)
    for key, kind in (("install_requires", Kind.needed), ("setup_requires", Kind.build)):
        text = parser.get("options", key, fallback="")
        if text.strip().startswith("file:"):
            into.computed.append(f"{file}: {key} is {text.strip()}")
        else:
            add_all(_lines(text), file, kind, into)
    if parser.has_section("options.extras_require"):
        for extra, text in parser.items("options.extras_require"):
            add_all(_lines(text), file, Kind.optional, into, extra)
    if bounds := parser.get("options", "python_requires", fallback=""):
        add_python(bounds, file, into)


def add_all(lines: Any, file: Path, kind: Kind, into: Declarations, part: str = "") -> None:
    """Adds each line of a list; anything else is a problem."""
    if lines is None:
        return
    if not isinstance(lines, list | tuple):
        into.problems.append(f"{file}: a list of requirements is a {type(lines).__name__}")
        return
    for line in lines:
        into.add(str(line), file, kind, part)


def add_python(bounds: Any, file: Path, into: Declarations) -> None:
    """Adds bounds of Python's version."""
    try:
        into.python.append((file, SpecifierSet(str(bounds))))
    except InvalidSpecifier:
        into.problems.append(f"{file}: {bounds!r} are no bounds of Python's version")


def _read_poetry(table: Mapping[str, Any], file: Path, kind: Kind, into: Declarations) -> None:
    for name, value in table.items():
        entry = value if isinstance(value, dict) else {"version": value}
        try:
            specifier = SpecifierSet(",".join(_from_poetry(str(entry.get("version", "*")))))
        except (InvalidSpecifier, ValueError):
            into.problems.append(f"{file}: {name} = {value!r} is no version of Poetry's")
            continue
        if name == "python":
            into.python.append((file, specifier))
            continue
        url = None
        if "git" in entry:
            revision = entry.get("rev") or entry.get("tag") or entry.get("branch")
            url = f"git+{entry['git']}" + (f"@{revision}" if revision else "")
        into.wanted.append(Wanted(canonicalize_name(name), file, kind, specifier, url))


def _from_poetry(text: str) -> Iterable[str]:
    """`^1.2.3` and `~1.2` as lower and upper bounds."""
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part == "*":
            continue
        if part[0] not in "^~" or part.startswith("~="):
            yield part if part[0] in "<>=!~" else f"=={part}"
            continue
        numbers = [int(number) for number in part[1:].strip().split(".")]
        leading = next((i for i, number in enumerate(numbers) if number), len(numbers) - 1)
        kept = leading if part[0] == "^" else min(1, len(numbers) - 1)
        upper = [*numbers[:kept], numbers[kept] + 1]
        yield from (f">={part[1:].strip()}", f"<{'.'.join(map(str, upper))}")


def _read_sources(table: Mapping[str, Any], file: Path, into: Declarations) -> None:
    """uv takes these packages from elsewhere than the index."""
    for name, source in table.items():
        for entry in source if isinstance(source, list) else [source]:
            if isinstance(entry, dict) and "git" in entry:
                revision = entry.get("rev") or entry.get("tag") or entry.get("branch")
                url = f"git+{entry['git']}" + (f"@{revision}" if revision else "")
                into.wanted.append(Wanted(canonicalize_name(name), file, Kind.needed, url=url))


def _table(of: Any, key: str) -> Mapping[str, Any]:
    value = of.get(key, {}) if isinstance(of, dict) else {}
    return value if isinstance(value, dict) else {}


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
