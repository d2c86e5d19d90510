"""Progress in the terminal: a live line per step with a bar and the time that is left of the whole.

Where there is no terminal: a line when a step begins and ends, and one a minute meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from wf_quickstart.timing import Glance

_LIVE_S, _LINE_S = 0.5, 60.0
"""Seconds between two looks at the step, on a terminal and without one."""


class StepLine:
    """What a step says of itself."""

    def __init__(self) -> None:
        self.note = ""
        self.share: float | None = None

    def update(self, done: float | None = None, total: float | None = None, note: str | None = None) -> None:
        """`done` of `total`; without a total nothing is said about how far it is."""
        self.note = self.note if note is None else note
        if done is not None and total:
            self.share = done / total


class Display:
    """Args:
    num_steps: of the whole.
    console: for tests, as is every_s, seconds between two looks at a step.
    """

    def __init__(self, num_steps: int, console: Console | None = None, every_s: float | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._num_steps = num_steps
        self._every_s = every_s or (_LIVE_S if self.console.is_terminal else _LINE_S)
        self._count = 0

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def skipped(self, title: str, seconds: float) -> None:
        self.say(f"[green]✓[/] {self._numbered(title)} [dim]already there ({seconds:.0f} s then)[/]")

    @contextmanager
    def step(self, title: str, look: Callable[[float], Glance] | None = None) -> Iterator[StepLine]:
        """Shows the step while it runs, and one line with its time and note when it has ended well.

        Args:
            look: at how far it is, given the seconds since its start.
        """
        label, start_s, line = self._numbered(title), time.monotonic(), StepLine()

        def glance() -> Glance | None:
            return None if look is None else look(time.monotonic() - start_s)

        shown = (
            self._live(label, line, glance) if self.console.is_terminal else self._lines(title, label, glance)
        )
        with shown:
            yield line
        seconds = time.monotonic() - start_s
        note = f"  {escape(line.note)}" if line.note else ""
        self.say(f"[green]✓[/] {label} [dim]{seconds:4.0f} s[/]{note}")

    @contextmanager
    def _live(self, label: str, line: StepLine, glance: Callable[[], Glance | None]) -> Iterator[None]:
        with self._progress() as progress:
            task = progress.add_task(label, total=None, note="", left="")
            with _repeated(self._every_s, lambda: _show(progress, task, line, glance())):
                yield

    @contextmanager
    def _lines(self, title: str, label: str, glance: Callable[[], Glance | None]) -> Iterator[None]:
        self.say(f"  {label} ...")

        def say() -> None:
            if (found := glance()) is not None:
                self.say(f"    {escape(sentence(title, found))}")

        with _repeated(self._every_s, say):
            yield

    def _numbered(self, title: str) -> str:
        self._count += 1
        return f"{self._count:2d}/{self._num_steps} {title:<44}"

    def _progress(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", style="cyan"),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
        )


def sentence(title: str, found: Glance) -> str:
    """Such as `4:10 of about 9:50, calibrate the weights: 12 of 30 blocks`."""
    whole = "" if found.left_s is None else f" of about {clock(found.spent_s + found.left_s)}"
    note = f": {found.note}" if found.note else ""
    return f"{clock(found.spent_s)}{whole}, {title[:1].lower()}{title[1:]}{note}"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _show(progress: Progress, task: TaskID, line: StepLine, found: Glance | None) -> None:
    """The bar's state: as the step says, else by its time."""
    share, note, left = line.share, line.note, ""
    if found is not None:
        share, note = (found.share if share is None else share), note or found.note
        left = "" if found.left_s is None else f"{clock(found.left_s)} left"
    progress.update(task, completed=share or 0.0, total=None if share is None else 1.0, note=note, left=left)


@contextmanager
def _repeated(every_s: float, act: Callable[[], None]) -> Iterator[None]:
    """Does it in a thread of its own until the end of the block."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            act()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
