"""Finds a repository's declarations: bounded in depth and number, no links followed, nothing run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wf_deployer.doctor.files import FileError, read_text
from wf_deployer.doctor.pages.markdown import command_lines
from wf_deployer.doctor.repository.declared import Declarations, Kind, parse
from wf_deployer.doctor.repository.pyproject import read_pyproject, read_setup_cfg
from wf_deployer.doctor.repository.requirements_txt import read_requirements
from wf_deployer.doctor.repository.setup_py import read_setup_py
from wf_deployer.doctor.workspace.checkout import Workspace

_PASSED_OVER = frozenset(
    (".git", ".hg", ".venv", "venv", "env", "node_modules", "__pycache__", "site-packages", ".tox", ".nox")
)
_MOST_DEPTH = 6
_MOST_ENTRIES = 100_000
_MOST_FILES = 300
_MOST_PAGES = 60
_MOST_PAGE_BYTES = 200_000
_MOST_BLOCK_CHARS = 10_000
"""Of a paragraph; Markdown takes time with the square of it."""
_MOST_PAGES_BYTES = 1_000_000

_REQUIREMENTS = re.compile(r"(?:.*[-_.])?requirements?(?:[-_.].*)?\.(?:txt|in)")
_READERS: dict[str, Callable[[Path, Path, Declarations], None]] = {
    "pyproject.toml": read_pyproject,
    "setup.cfg": read_setup_cfg,
    "setup.py": read_setup_py,
}
LOCKS = ("uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock", "pylock.toml")
_VALUED = ("-r", "-c", "-e", "-i", "-f", "-t", "--index-url", "--extra-index-url", "--find-links", "--target")


@dataclass(frozen=True)
class Repository:
    """The subject of its checks. Attributes: ours is the checkout that it is compared with."""

    root: Path
    declarations: Declarations
    locks: list[Path]
    ours: Workspace


def is_repository(root: Path) -> bool:
    """Whether its top or a folder there declares Python packages; with git any folder."""
    depth = _MOST_DEPTH + 1 if (root / ".git").exists() else 2
    return any(_is_declaration(file) and len(file.parts) <= depth for file in _files(root, Declarations()))


def read_repository(root: Path, ours: Workspace) -> Repository:
    """Reads all declarations that are found."""
    found = Declarations()
    files = list(_files(root, found))
    declaring = [file for file in files if _is_declaration(file)]
    if len(declaring) > _MOST_FILES:
        found.problems.append(
            f"{len(declaring)} files declare packages: only the first {_MOST_FILES} are read"
        )
    for file in declaring[:_MOST_FILES]:
        reader = _READERS.get(file.name, read_requirements)
        reader(root, file, found)
    left_bytes = _MOST_PAGES_BYTES
    for page in [file for file in files if file.suffix == ".md"][:_MOST_PAGES]:
        left_bytes -= _read_page(root, page, left_bytes, found)
    return Repository(root, found, [file for file in files if file.name in LOCKS], ours)


def _is_declaration(file: Path) -> bool:
    is_of_folder = file.parent.name == "requirements" and file.suffix == ".txt"
    return file.name in _READERS or is_of_folder or _REQUIREMENTS.fullmatch(file.name) is not None


def _files(root: Path, into: Declarations) -> Iterator[Path]:
    """Relative, those near the top first in each folder; what cannot be listed becomes a problem."""

    def refused(error: OSError) -> None:
        into.problems.append(f"{error.filename}: {error.strerror}")

    num_entries = 0
    for folder, folders, names in os.walk(root, onerror=refused):
        here = Path(folder).relative_to(root)
        folders[:] = sorted(name for name in folders if name not in _PASSED_OVER)
        if len(here.parts) >= _MOST_DEPTH:
            folders.clear()
        num_entries += len(names) + len(folders)
        yield from (
            here / name
            for name in sorted(names)
            if name in LOCKS or Path(name).suffix in (".md", ".toml", ".cfg", ".py", ".txt", ".in")
        )
        if num_entries > _MOST_ENTRIES:
            into.problems.append(f"more than {_MOST_ENTRIES} files: those behind {here} are not looked at")
            return


def _read_page(root: Path, page: Path, most_bytes: int, into: Declarations) -> int:
    """Adds packages that a page tells to install. Returns its size; 0 for one that is not searched."""
    try:
        text = read_text(root / page, min(_MOST_PAGE_BYTES, most_bytes))
    except FileError:
        return 0  # a page is no declaration
    if "install" not in text or max(map(len, re.split(r"\n\s*\n", text))) > _MOST_BLOCK_CHARS:
        return 0
    lines = list(command_lines(root / page))
    for line in lines:
        words = list(line.words)
        if "install" not in words[1:4] or not {"pip", "pip3"} & set(words[:3]):
            continue
        for word in _packages(words[words.index("install") + 1 :]):
            try:
                wanted = parse(word, page, Kind.documented, str(line.line))
            except ValueError:  # prose
                continue
            if wanted is not None and wanted not in into.wanted:
                into.wanted.append(wanted)
    return len(text)


def _packages(words: list[str]) -> Iterator[str]:
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "-e" and left and "+" in left[0]:
            yield left.pop(0)
        elif word.startswith("-"):
            if word in _VALUED:
                left[:1] = []
        else:
            yield word
