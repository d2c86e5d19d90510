"""An answer's text, as it comes in pieces, into content and calls.

The grammar has held the answer to the form (`forms.py`), so what stands around names and arguments is known
to the letter and only the end of the arguments has to be found: that of an object of JSON. Where an answer is
cut short, by its length or a stop string, the call stays as far as it came; what is cut off before its name
is complete is content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from wrinklefree_inference.tool_calls.forms import ToolForm


@dataclass(frozen=True)
class Content:
    """Text for the reader."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """Call number `index`, of the function `name`."""

    index: int
    name: str


@dataclass(frozen=True)
class CallGoesOn:
    """A piece of its arguments, as JSON."""

    index: int
    arguments: str


@dataclass(frozen=True)
class CallEnded:
    """Its arguments are whole."""

    index: int


Part = Content | CallBegun | CallGoesOn | CallEnded


class _At(Enum):
    CONTENT = auto()
    OPENING = auto()
    NAME = auto()
    ARGUMENTS = auto()
    BEHIND = auto()


class CallReader:
    """Reads one answer.

    Args:
        must_call: The answer begins with a call.
    """

    def __init__(self, form: ToolForm, must_call: bool) -> None:
        self._form = form
        self._at = _At.OPENING if must_call else _At.CONTENT
        self._held = ""
        self._is_begin = True
        self._num_calls = 0
        self._object = _ObjectEnd()

    @property
    def has_whole_calls(self) -> bool:
        """Whether there are calls and none is cut short."""
        is_closed = self._held.startswith(self._form.closing)
        return self._num_calls > 0 and self._at is _At.BEHIND and is_closed

    def feed(self, text: str) -> list[Part]:
        """What a piece of text is, as far as can be told."""
        self._held += text
        parts: list[Part] = []
        while True:
            at, held = self._at, self._held
            parts += self._step()
            if (self._at, self._held) == (at, held):
                return parts

    def finish(self) -> list[Part]:
        """The end of the answer: what was held back in vain, if there are no calls."""
        if self._num_calls:
            return []
        held, self._held = self._held, ""
        if self._at is _At.NAME:
            held = self._form.opening + held
        return [Content(held)] if held else []

    def _step(self) -> Iterator[Part]:
        match self._at:
            case _At.CONTENT:
                return self._content()
            case _At.OPENING:
                return self._skip(self._form.opening, self._form.before)
            case _At.NAME:
                return self._name()
            case _At.ARGUMENTS:
                return self._arguments()
            case _At.BEHIND:
                return self._skip(self._form.between)

    def _content(self) -> Iterator[Part]:
        form, held = self._form, self._held
        marker_at = self._marker_at()
        if marker_at is not None:
            self._at, self._held = _At.OPENING, held[marker_at:]
            content = held[:marker_at].rstrip("\n") if not form.leads else ""
        else:
            num_shown = self._num_shown()
            content, self._held = held[:num_shown], held[num_shown:]
        if content:
            self._is_begin = False
            yield Content(content)

    def _marker_at(self) -> int | None:
        """Where calls begin in what is held."""
        form, held = self._form, self._held
        if form.leads:
            starts = [*([form.before] if form.before else []), form.marker]
            return 0 if self._is_begin and held.startswith(tuple(starts)) else None
        found = held.find(form.marker)
        return None if found < 0 else found

    def _num_shown(self) -> int:
        """How much of what is held cannot be the beginning of a marker, or line breaks before one."""
        form, held = self._form, self._held
        if form.leads:
            starts = (form.marker, form.before or form.marker)
            may_lead = self._is_begin and any(start.startswith(held) for start in starts)
            return 0 if may_lead else len(held)
        num_marker = next(n for n in range(len(form.marker) - 1, -1, -1) if held.endswith(form.marker[:n]))
        return len(held[: len(held) - num_marker].rstrip("\n"))

    def _skip(self, text: str | None, before: str | None = None) -> Iterator[Part]:
        """Pass over what is known to come before a name."""
        if before:
            self._held = self._held.removeprefix(before)
        if text is not None and self._held.startswith(text):
            self._at, self._held = _At.NAME, self._held.removeprefix(text)
        return iter(())

    def _name(self) -> Iterator[Part]:
        name, middle, rest = self._held.partition(self._form.middle)
        if middle:
            self._at, self._held, self._object = _At.ARGUMENTS, rest, _ObjectEnd()
            self._num_calls += 1
            yield CallBegun(self._num_calls - 1, name)

    def _arguments(self) -> Iterator[Part]:
        end = self._object.find(self._held)
        arguments, self._held = self._held[:end], "" if end is None else self._held[end:]
        if arguments:
            yield CallGoesOn(self._num_calls - 1, arguments)
        if end is not None:
            self._at = _At.BEHIND
            yield CallEnded(self._num_calls - 1)


class _ObjectEnd:
    """Finds the end of an object of JSON that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_text = self._is_escaped = False

    def find(self, text: str) -> int | None:
        """Offset behind the object in `text`, which follows what was looked at before."""
        for offset, char in enumerate(text, 1):
            if self._is_text:
                self._is_text = char != '"' or self._is_escaped
                self._is_escaped = char == "\\" and not self._is_escaped
            elif char == '"':
                self._is_text = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return offset
        return None
