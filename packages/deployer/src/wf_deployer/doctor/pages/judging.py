"""One command line against what its program takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from wf_deployer.doctor.base import listed
from wf_deployer.doctor.pages.surface import Option, Surface

_PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*(?:\.\.\.)?|.*[<>$…{}].*|.*\.\.\.")
_NUMBER = re.compile(r"-\d+(\.\d+)?")


def problems(surface: Surface, words: Sequence[str]) -> Iterator[str]:
    """What of the words behind the program's name does not exist there."""
    if surface.commands:
        yield from _of_group(surface, words)
        return
    left = list(words)
    num_arguments = 0
    while left:
        word = left.pop(0)
        if word == "--":
            num_arguments += len(left)
            break
        if not word.startswith("-") or word == "-" or _NUMBER.fullmatch(word):
            num_arguments += not _is_placeholder(word)
            continue
        name, has_value, value = word.partition("=")
        option = _option(surface, name)
        if option is None:
            yield f"there is no {name}; there is {listed(sorted(surface.options), 40)}"
            return
        if not has_value and word in surface.options:
            taken = len(left) if option.values is None else option.values
            values = [left.pop(0) for _ in range(min(taken, len(left))) if _is_value(left[0])]
        else:
            values = [value] if has_value else []
        yield from _wrong_choices(name, option, values)
    if surface.most_arguments is not None and num_arguments > surface.most_arguments:
        yield f"{num_arguments} arguments, it takes {surface.most_arguments or 'none'}"


def _of_group(surface: Surface, words: Sequence[str]) -> Iterator[str]:
    if not words or _is_placeholder(words[0]):
        return
    if words[0] in surface.commands:
        yield from problems(surface.commands[words[0]], words[1:])
    elif words[0] not in surface.options:
        yield f"there is no {words[0]}; there is {listed(surface.commands, 40)}"


def _option(surface: Surface, name: str) -> Option | None:
    """Short options may have their value behind them: `-s2`."""
    if name in surface.options or name.startswith("--"):
        return surface.options.get(name)
    return surface.options.get(name[:2])


def _wrong_choices(name: str, option: Option, values: Sequence[str]) -> Iterator[str]:
    for value in values:
        if option.choices and value not in option.choices and not _is_placeholder(value):
            yield f"{name} is one of {', '.join(option.choices)}, not {value!r}"


def _is_value(word: str) -> bool:
    return not word.startswith("-") or _NUMBER.fullmatch(word) is not None


def _is_placeholder(word: str) -> bool:
    return _PLACEHOLDER.fullmatch(word) is not None
