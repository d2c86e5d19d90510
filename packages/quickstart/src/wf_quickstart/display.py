"""Progress in the terminal: one line per step with a bar; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class StepLine:
    """The line of the running step."""

    def __init__(self, progress: Progress | None, task: int | None) -> None:
        self._progress = progress
        self._task = task
        self.note = ""

    def update(self, done: float | None = None, total: float | None = None, note: str | None = None) -> None:
        """`done` of `total`; without a total the bar only shows that something happens."""
        self.note = self.note if note is None else note
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, note=self.note)  # type: ignore[arg-type]


class Display:
    """Args: number of steps, and a console (for tests)."""

    def __init__(self, num_steps: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._num_steps = num_steps
        self._count = 0

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def skipped(self, title: str, seconds: float) -> None:
        self.say(f"[green]✓[/] {self._numbered(title)} [dim]already there ({seconds:.0f} s then)[/]")

    @contextmanager
    def step(self, title: str) -> Iterator[StepLine]:
        """Shows the step while it runs, and one line with its time and note when it has ended well."""
        label, start_s = self._numbered(title), time.monotonic()
        if self.console.is_terminal:
            with self._progress() as progress:
                line = StepLine(progress, progress.add_task(label, total=None, note=""))
                yield line
        else:
            self.say(f"  {label} ...")
            line = StepLine(None, None)
            yield line
        seconds = time.monotonic() - start_s
        note = f"  {escape(line.note)}" if line.note else ""
        self.say(f"[green]✓[/] {label} [dim]{seconds:4.0f} s[/]{note}")

    def _numbered(self, title: str) -> str:
        self._count += 1
        return f"{self._count:2d}/{self._num_steps} {title:<44}"

    def _progress(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
        )
