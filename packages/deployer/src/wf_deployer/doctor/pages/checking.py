"""All command lines of a checkout's pages, judged.

1. extract them (markdown.py); 2. find each one's program; 3. learn what the programs take, most of them in
one child process, benchmarks from their source; 4. judge (judging.py), and compose what goes to the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from wf_deployer.applications import APPLICATIONS, is_handed_on
from wf_deployer.commands.evaluate import evaluate
from wf_deployer.commands.train import train
from wf_deployer.doctor.children import ask, output_of
from wf_deployer.doctor.files import FileError
from wf_deployer.doctor.pages.judging import problems
from wf_deployer.doctor.pages.markdown import CommandLine, command_lines
from wf_deployer.doctor.pages.source import surface_of_source
from wf_deployer.doctor.pages.surface import Surface
from wf_deployer.doctor.tools import find_tool

Program = tuple[str, ...]
"""`("-m", module, ...)`, `(script,)` or `("wf",)`."""

TRAINER: Program = ("-m", "wrinklefree.train")
_APPLICATIONS: dict[str, Program] = {
    application.name: ("-m", *application.command) for application in APPLICATIONS
}
_HAND_ON: dict[str, tuple[Program, Callable[..., None]]] = {
    "train": (TRAINER, train),
    "eval": (_APPLICATIONS["eval"], evaluate),
}
"""Commands of `wf` whose further arguments are a program's."""
_PYTHON = ("python", "python3")
_OWN_FOLDERS = ("packages/", "scripts/", "tests/", "configs/", "docs/", ".ci/")
_ASKED_FOLDERS = ("scripts", "benchmarks")
_MODEL_OF_A_READER = ("$", "<", "…", "...")


@dataclass(frozen=True)
class Problem:
    page: Path
    line: int
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: `{self.text}`: {self.reason}"


@dataclass(frozen=True)
class Judgement:
    """Attributes: problems in the pages' order; number of command lines that were looked at."""

    problems: list[Problem]
    num_lines: int
    num_pages: int


def judge_pages(root: Path, python: Path, code: Path | None = None) -> Judgement:
    """Judges the pages of a checkout.

    Args:
        python: the interpreter whose applications are asked.
        code: the checkout whose scripts may run to be asked; `root` if left out. Of another one, only
            pages and sources are read.

    Raises:
        CommandError: the programs could not be asked.
    """
    pages = markdown_pages(root)
    found: list[Problem] = []
    lines: list[CommandLine] = []
    for page in pages:
        try:
            lines += command_lines(page)
        except FileError as error:
            found.append(Problem(page.relative_to(root), 1, "", str(error)))
    known = [(line, program, words) for line in lines for program, words in _programs(line.words, root)]
    learned = _learn(root, code or root, python, [(program, words) for _line, program, words in known])
    judged = {line for line, _program, _words in known}
    for line in lines:
        own = [(program, words) for other, program, words in known if other is line]
        reasons = [reason for program, words in own for reason in learned.reasons(program, words)]
        reasons += _missing_files(line, root)
        if _missing_files(line, root):
            judged.add(line)
        text = " ".join(line.text.split())
        found += [
            Problem(line.page.relative_to(root), line.line, text, reason) for reason in dict.fromkeys(reasons)
        ]
    return Judgement(found, len(judged), len(pages))


def markdown_pages(root: Path) -> list[Path]:
    """Those that git tracks; without git, those in the checkout's own folders."""
    if find_tool("git") is not None and (root / ".git").exists():
        done = output_of(["git", "-c", "core.fsmonitor=false", "ls-files", "-z", "*.md"], cwd=root)
        return [root / name for name in done.stdout.split("\0") if name and (root / name).is_file()]
    folders = [root / name.rstrip("/") for name in _OWN_FOLDERS]
    return [*root.glob("*.md"), *(page for folder in folders for page in sorted(folder.rglob("*.md")))]


@dataclass(frozen=True)
class _Learned:
    surfaces: dict[Program, Surface | str]
    refusals: dict[tuple[str, ...], str]

    def reasons(self, program: Program, words: Sequence[str]) -> Iterator[str]:
        surface = self.surfaces.get(program)
        if surface is None:  # a script of another checkout
            return
        if isinstance(surface, str):
            yield f"{' '.join(program)} cannot be asked: {surface}"
            return
        wrong = list(problems(surface, words))
        yield from wrong
        if not wrong and (refusal := self.refusals.get(_configuration(program, words) or ())):
            yield refusal


def _learn(root: Path, code: Path, python: Path, wanted: Sequence[tuple[Program, Sequence[str]]]) -> _Learned:
    programs = list(dict.fromkeys(program for program, _words in wanted))
    surfaces: dict[Program, Surface | str] = {}
    for program in programs:
        of_source = surface_of_source(root / program[0], root) if program[0].endswith(".py") else None
        if of_source is not None:
            surfaces[program] = of_source
    asked = [program for program in programs if program not in surfaces and _can_be_asked(program, code)]
    configurations = {_configuration(program, words) for program, words in wanted if program in asked}
    unique = sorted(filter(None, configurations))
    answers = ask(python, "surface", {"programs": asked, "configurations": unique}, cwd=code)
    for program, answer in zip(asked, answers["programs"], strict=True):
        surfaces[program] = answer["error"] if "error" in answer else Surface.from_json(answer)
    return _Learned(surfaces, dict(zip(unique, map(_last_line, answers["configurations"]), strict=True)))


def _can_be_asked(program: Program, code: Path) -> bool:
    return not program[0].endswith(".py") or (code / program[0]).is_file()


def _last_line(text: str) -> str:
    return text.rpartition("\n")[2]


def _configuration(program: Program, words: Sequence[str]) -> tuple[str, ...] | None:
    """The command line that composes what these words ask for; None if they leave too much open."""
    if any(mark in word for word in words for mark in _MODEL_OF_A_READER):
        return None
    settings = [word for word in words if "=" in word and not word.startswith("-")]
    stage = [word for flag, word in pairwise(words) if flag in ("-s", "--stage")]
    if not settings or (
        program == TRAINER and not stage and not any(s.startswith("training=") for s in settings)
    ):
        return None
    return (*program, "--cfg", *(["-s", stage[0]] if stage else []), *settings)


def _programs(words: Sequence[str], root: Path) -> Iterator[tuple[Program, Sequence[str]]]:
    """The programs that a line runs, with the words behind them; a line of no program of ours has none."""
    if not words:
        return
    if words[0] == "wf":
        name = words[1] if len(words) > 1 else ""
        if is_handed_on(name, words[2:]):
            yield _APPLICATIONS[name], words[2:]
            return
        own, handed_on = _parted(name, words[2:])
        yield ("wf",), [*words[1:2], *(words[2:] if name == "train" else own)]
        if name in _HAND_ON:
            yield _HAND_ON[name][0], handed_on
    elif words[0] in _PYTHON and len(words) > 1:
        if words[1] == "-m" and len(words) > 2:
            modules = {program[1] for program in _APPLICATIONS.values()} | {TRAINER[1]}
            if words[2] in modules:
                yield from _module(words[2], words[3:])
        elif _is_asked(words[1]) and (root / words[1]).is_file():
            yield (words[1],), words[2:]


def _module(name: str, words: Sequence[str]) -> Iterator[tuple[Program, Sequence[str]]]:
    commands = {program[2] for program in _APPLICATIONS.values() if program[1] == name and len(program) > 2}
    if not commands:
        yield ("-m", name), words
    elif words and words[0] in commands:
        yield ("-m", name, words[0]), words[1:]


def _parted(name: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What a command keeps for itself, and what it hands on; all is its own of one that hands nothing on."""
    if name not in _HAND_ON:
        return list(words), []
    options = _own_options(name)
    own, handed_on, left = [], [], list(words)
    while left:
        word = left.pop(0)
        if word not in options:
            handed_on.append(word)
            continue
        own.append(word)
        if options[word]:
            own += left[:1]
            left[:1] = []
    return own, handed_on


@cache
def _own_options(name: str) -> dict[str, bool]:
    """Options of a command that it does not hand on, and whether a value follows."""
    app = typer.Typer()
    app.command()(_HAND_ON[name][1])
    command: Any = typer.main.get_command(app)
    handed_on = {"-s", "--stage"}
    return {
        name: not option.is_flag
        for option in command.params
        if option.param_type_name == "option"
        for name in (*option.opts, *option.secondary_opts)
        if name not in handed_on
    }


def _is_asked(name: str) -> bool:
    """Scripts that parse their arguments; others are not begun."""
    path = Path(name)
    return path.suffix == ".py" and name.startswith("packages/") and path.parent.name in _ASKED_FOLDERS


def _missing_files(line: CommandLine, root: Path) -> list[str]:
    """Files of the checkout that a command names."""
    runs = ("wf", *_PYTHON, "pytest", "streamlit", "mypy", "ruff", "bash", "sh")
    if not line.words or not (line.words[0] in runs or line.words[0].startswith(_OWN_FOLDERS)):
        return []
    if len(line.words) == 1 and line.words[0].endswith("/"):  # a folder is mentioned, nothing is run
        return []
    named = [word.partition("::")[0] for word in line.words if word.startswith(_OWN_FOLDERS)]
    return [
        f"there is no {name}"
        for name in named
        if "NAME" not in name
        and not any(mark in name for mark in _MODEL_OF_A_READER)
        and not any(any(folder.glob(name)) for folder in (root, line.page.parent))
    ]
