"""Command lines in Markdown: of fenced blocks, and code spans in the text.

Text below a heading "Removed" is left out: a changelog tells there of what is gone.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markdown import Markdown

from wf_deployer.doctor.files import read_text

_SHELLS = ("", "bash", "sh", "shell", "console", "text")
_COMMENT = re.compile(r"(?:^|\s)#(?:\s.*)?$")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")
_OPERATORS = frozenset(("|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1"))
_UV_VALUES = frozenset(
    ("--package", "--extra", "--group", "--with", "--python", "-p", "--directory", "--project", "--env-file")
)


@dataclass(frozen=True)
class CommandLine:
    """Attributes: words are those after `uv run` and variables; text is the line as it stands."""

    page: Path
    line: int
    text: str
    words: tuple[str, ...]


def command_lines(page: Path) -> Iterator[CommandLine]:
    """All of a page that begin a program. Raises: FileError."""
    is_removed = False
    tokens = Markdown(read_text(page)).parsed
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            is_removed = tokens[index + 1].content.strip().lower() == "removed"
        elif not is_removed:
            for line, text in _snippets(token):
                yield from _commands(page, line, text)


def _snippets(token: Any) -> Iterator[tuple[int, str]]:
    """(line of the page, text of one command) of a block of Markdown."""
    first = token.map[0] + 1 if token.map else 1
    if token.type in ("fence", "code_block"):
        words = token.info.split()
        if not words or words[0] in _SHELLS:
            offset = 1 if token.type == "fence" else 0
            for number, text in _joined(token.content):
                yield first + offset + number, text
    elif token.type == "inline":
        for child in token.children or ():
            if child.type == "code_inline":
                yield first, child.content


def _joined(block: str) -> Iterator[tuple[int, str]]:
    """Lines with those that a backslash continues."""
    start, held = 0, ""
    for number, line in enumerate(block.splitlines()):
        if not held:
            start = number
        plain = _COMMENT.sub("", line).rstrip()
        if plain.endswith("\\"):
            held += plain[:-1] + " "
            continue
        yield start, held + plain
        held = ""
    if held:
        yield start, held


def _commands(page: Path, line: int, text: str) -> Iterator[CommandLine]:
    """Each program of a line with pipes and `&&`."""
    try:
        lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        lexer.commenters = ""
        words = list(lexer)
    except ValueError:  # a quote without its end: prose, or half a line
        words = text.split()
    begun: list[str] = []
    for word in [*words, ";"]:
        if word in _OPERATORS:
            if program := _program(begun):
                yield CommandLine(page, line, text, tuple(program))
            begun = [] if word in ("|", "||", "&&", ";", "&") else [">"]
        else:
            begun.append(word)


def _program(words: list[str]) -> list[str]:
    """Without prompt, variables and `uv run`; nothing of a redirection's file."""
    words = words[1:] if words[:1] == ["$"] else words
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    if words[:2] != ["uv", "run"]:
        return [] if words[:1] == [">"] else words
    words = words[2:]
    while words and words[0].startswith("-") and words[0] != "-m":
        words = words[2:] if words[0] in _UV_VALUES else words[1:]
    return words if words[:1] != ["-m"] else ["python", *words]
