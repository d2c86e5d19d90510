"""A report, for people and as JSON.

JSON: {"schema": "wrinklefree.doctor", "schema_version": 1, "kind": "workspace" or "repository", "root",
"strict", "verdict": "ok" | "warn" | "fail", "counts": {status: number},
"checks": [{"id", "status", "found", "expected", "fix", "source"}],
"versions": [{"member", "name", "declared", "locked", "installed"}]}; null is "not there".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wf_deployer.doctor.base import Finding, Row, Status
from wf_formats.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "wrinklefree.doctor"
SCHEMA_VERSION = 1
_MARKS = {
    Status.ok: ("✓", "green"),
    Status.warn: ("!", "yellow"),
    Status.fail: ("✗", "red"),
    Status.skip: ("-", "dim"),
}
_PLAIN = str.maketrans({"✓": "+", "✗": "x", "→": "->"})
_WORST = (Status.fail, Status.warn, Status.ok, Status.skip)


@dataclass(frozen=True)
class Report:
    """Attributes: versions are rows for JSON, as above; strict makes a failure of a warning."""

    kind: str
    root: Path
    rows: Sequence[Row]
    versions: Sequence[dict[str, Any]] = ()
    strict: bool = False

    @property
    def verdict(self) -> Status:
        worst = _worst(self.rows)
        return Status.ok if worst is Status.skip else worst

    @property
    def exit_code(self) -> int:
        return int(self.verdict is Status.fail or (self.strict and self.verdict is Status.warn))

    @property
    def counts(self) -> dict[str, int]:
        return {str(status): sum(row.finding.status is status for row in self.rows) for status in Status}

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "root": str(self.root),
            "strict": self.strict,
            "verdict": str(self.verdict),
            "counts": self.counts,
            "checks": [_entry(row) for row in self.rows],
            "versions": list(self.versions),
        }


def _entry(row: Row) -> dict[str, str]:
    finding = row.finding
    return {
        "id": row.id,
        "status": str(finding.status),
        "found": finding.found,
        "expected": finding.expected,
        "fix": finding.fix,
        "source": finding.source,
    }


def show(report: Report, console: Console) -> None:
    """A table grouped by area: a line for what was found, under a problem what mends it; then the verdict."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(overflow="fold")
    for area, rows in groupby(report.rows, key=lambda row: row.area):
        rows_of_area = list(rows)
        mark, style = _MARKS[_worst(rows_of_area)]
        table.add_row(Text(mark, style), Text(area, "bold"))
        for row in rows_of_area:
            mark, style = _MARKS[row.finding.status]
            name = printable(row.id.partition(".")[2] or row.id)
            table.add_row("", Text.assemble((f"{mark} {name}", style), f"  {_line(row.finding)}"))
            if row.finding.fix and row.finding.status.is_problem:
                table.add_row("", Text(f"    → {printable(row.finding.fix, None)}", "cyan"))
    with console.capture() as text:  # rich fills lines up with spaces
        console.print(table)
        console.print(Text(_summary(report), _MARKS[report.verdict][1]))
    shown = "\n".join(line.rstrip() for line in text.get().split("\n"))
    console.file.write(_encodable(shown, console.encoding))


def _encodable(text: str, encoding: str) -> str:
    """With plain marks where the terminal's encoding has no others."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    return text


def _worst(rows: Sequence[Row]) -> Status:
    found = {row.finding.status for row in rows}
    return next(status for status in _WORST if status in found)


def _line(finding: Finding) -> str:
    found, expected, fix = (printable(text, None) for text in (finding.found, finding.expected, finding.fix))
    if finding.status.is_problem and expected:
        return f"{found} (expected: {expected})"
    return f"{found} → {fix}" if finding.status is Status.skip and fix else found


def _summary(report: Report) -> str:
    counts = report.counts
    names = {"ok": "ok", "warn": "warnings", "fail": "failures", "skip": "not looked at"}
    words = ", ".join(f"{counts[status]} {name}" for status, name in names.items())
    verdict = {
        Status.ok: "No problems found",
        Status.warn: "Warnings" + (", failures by --strict" if report.strict else ""),
        Status.fail: "Something must be mended",
    }[report.verdict]
    return f"{verdict}: {words} ({printable(str(report.root), None)})"
