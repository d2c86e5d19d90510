"""How far a command is, on stderr: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from data_handler.corpus.domains import Document, Domain
from wf_formats.printable import printable

_LINE_S = 60.0


class Bar(Protocol):
    """What a command tells of itself."""

    def update(self, done: float, note: str = "") -> None:
        """`done` of the whole, and a word on it."""


@contextmanager
def bar(what: str, total: float) -> Iterator[Bar]:
    """Shows how much of `total` is done; more than that counts as all."""
    console = Console(stderr=True, markup=False)
    if not console.is_terminal:
        yield _Lines(what, total)
        return
    columns = (
        SpinnerColumn(),
        TextColumn(what, markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        yield _Live(shown, total)


def _num_bytes(domains: Sequence[Domain]) -> int:
    """About what the files hold, unpacked, for a bar."""
    return sum(_unpacked_bytes(file) for domain in domains for file in domain.files)


def _unpacked_bytes(file: Path) -> int:
    """A gzip file says it at its end (modulo 4 GB)."""
    size_bytes = file.stat().st_size
    if file.suffix != ".gz" or size_bytes < 4:
        return size_bytes
    with file.open("rb") as packed:
        packed.seek(-4, 2)
        return max(size_bytes, struct.unpack("<I", packed.read(4))[0])


@contextmanager
def reading_bar(what: str, domains: Sequence[Domain]) -> Iterator[Callable[[Document], None]]:
    """A bar over the bytes of all files, advanced by each document."""
    with bar(what, _num_bytes(domains)) as shown:
        done = count = 0

        def advance(document: Document) -> None:
            nonlocal done, count
            done += len(document.record or document.text)
            count += 1
            if count % 16 == 0:
                shown.update(done, f"{count:,} documents, {document.domain}")

        yield advance


class _Live:
    def __init__(self, shown: Progress, total: float) -> None:
        self._shown, self._total = shown, total
        self._task = shown.add_task("", total=total, note="")

    def update(self, done: float, note: str = "") -> None:
        self._shown.update(self._task, completed=min(done, self._total), note=printable(note))


class _Lines:
    def __init__(self, what: str, total: float) -> None:
        self._what, self._total = what, total
        self._last_s = time.monotonic()

    def update(self, done: float, note: str = "") -> None:
        if time.monotonic() - self._last_s < _LINE_S:
            return
        self._last_s = time.monotonic()
        share = min(1.0, done / self._total) if self._total else 1.0
        sys.stderr.write(f"{self._what}: {share:.0%}{', ' if note else ''}{printable(note)}\n")
