"""What a repository declares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from wf_formats.secrets import redacted

_COMMIT = re.compile(r"@[0-9a-f]{7,40}(?:$|[#&?])")
_MOST_CHARS = 10_000
_MOST_REQUIREMENTS = 20_000
_VCS = re.compile(r"(?:git|hg|svn|bzr)\+")


class Kind(StrEnum):
    needed = "needed"
    optional = "optional"
    """Of an extra, a group, a file of requirements for development."""
    build = "build"
    documented = "documented"
    """`pip install` in a page."""


@dataclass(frozen=True)
class Wanted:
    """A requirement. Attributes: url in place of a version; part is the extra or group; file is relative."""

    name: str
    file: Path
    kind: Kind
    specifier: SpecifierSet = field(default_factory=SpecifierSet)
    url: str | None = None
    part: str = ""

    @property
    def is_unpinned(self) -> bool:
        return not self.specifier and self.url is None

    @property
    def pin(self) -> str | None:
        """The one version of `==`."""
        exact = [s.version for s in self.specifier if s.operator in ("==", "===") and "*" not in s.version]
        return exact[0] if exact else None

    @property
    def is_moving(self) -> bool:
        """A version control URL without a commit."""
        return self.url is not None and bool(_VCS.match(self.url)) and not _COMMIT.search(self.url)

    def __str__(self) -> str:
        version = f" @ {redacted(self.url)}" if self.url is not None else str(self.specifier)
        return f"{self.name}{version}"


@dataclass(frozen=True)
class Extension:
    """Compiled code of a setup.py. Attributes: number of sources as far as they are written out."""

    file: Path
    kind: str
    num_sources: int
    num_cuda: int


@dataclass
class Declarations:
    """Attributes:
    files: Read, relative to the top.
    problems: Lines that name a file, and what of it cannot be read.
    computed: What is known only when setup.py runs.
    python: (file, bounds).
    names: What the repository's own packages are called.
    imports_torch: Files whose build imports PyTorch.
    indexes: (file, option) of further package indexes.
    """

    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    python: list[tuple[Path, SpecifierSet]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    extensions: list[Extension] = field(default_factory=list)
    imports_torch: list[Path] = field(default_factory=list)
    indexes: list[tuple[Path, str]] = field(default_factory=list)

    def of(self, name: str, *kinds: Kind) -> list[Wanted]:
        """Requirements of one package, of these kinds (none given: all)."""
        return [w for w in self.wanted if w.name == name and (not kinds or w.kind in kinds)]

    def without(self, kind: Kind) -> Iterator[Wanted]:
        return (w for w in self.wanted if w.kind is not kind)

    def add(self, text: str, file: Path, kind: Kind, part: str = "") -> None:
        """A line of PEP 508, or a URL as pip takes it; what it is not becomes a problem."""
        if len(self.wanted) >= _MOST_REQUIREMENTS:
            told = f"more than {_MOST_REQUIREMENTS} requirements: those behind are not read"
            self.problems += [] if told in self.problems else [told]
            return
        try:
            wanted = parse(text, file, kind, part)
        except ValueError as error:
            self.problems.append(f"{file}: {redacted(text[:200])!r} is no requirement: {error}")
            return
        if wanted is not None:
            self.wanted.append(wanted)


def parse(text: str, file: Path, kind: Kind, part: str = "") -> Wanted | None:
    """None for a path of the same machine, and where its marker does not hold here.

    Raises:
        ValueError: it is neither.
    """
    text = text.strip()
    if len(text) > _MOST_CHARS:
        raise ValueError(f"it has {len(text)} characters")
    if re.match(r"[\w.+-]+://|(?:git|hg|svn|bzr)\+", text):
        return Wanted(canonicalize_name(_name_of_url(text)), file, kind, url=text, part=part)
    if text.startswith((".", "/", "~", "file:")) or text.endswith((".whl", ".tar.gz", ".zip")):
        return None
    try:
        found = Requirement(text)
        holds = found.marker is None or found.marker.evaluate({"extra": part})
    except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if not holds:
        return None
    return Wanted(canonicalize_name(found.name), file, kind, found.specifier, found.url, part)


def _name_of_url(url: str) -> str:
    """`#egg=NAME`, else the last part of the path: a project's name as far as it can be told."""
    if egg := re.search(r"[#&]egg=([\w.-]+)", url):
        return egg[1]
    path = re.split(r"[#?]", url)[0]
    last = re.sub(r"(?<=[^/:])@[^/]*$", "", path).rstrip("/").rpartition("/")[2]
    return re.split(r"\.git$|-\d|\.(?:zip|tar|whl)", last)[0] or "unnamed"
