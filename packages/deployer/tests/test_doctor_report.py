"""Verdicts, exit codes, JSON, and checks that break."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from wf_deployer.doctor.base import Check, Finding, Row, Status, UnreadableError
from wf_deployer.doctor.children import ask, output_of
from wf_deployer.doctor.registry import CHECKS
from wf_deployer.doctor.report import Report, show
from wf_deployer.doctor.running import run
from wf_deployer.errors import CommandError
from wf_deployer.main import app


class Subject:
    pass


def report_of(*statuses: Status, strict: bool = False) -> Report:
    rows = [Row(f"area.{number}", Finding(status, "found")) for number, status in enumerate(statuses)]
    return Report("workspace", Path("/x"), rows, strict=strict)


@pytest.mark.parametrize(
    ("statuses", "strict", "verdict", "exit_code"),
    [
        ((Status.ok, Status.skip), True, "ok", 0),
        ((Status.ok, Status.warn), False, "warn", 0),
        ((Status.ok, Status.warn), True, "warn", 1),
        ((Status.warn, Status.fail, Status.ok), False, "fail", 1),
        ((Status.skip,), True, "ok", 0),
    ],
)
def test_exit_codes(statuses: tuple[Status, ...], strict: bool, verdict: str, exit_code: int) -> None:
    report = report_of(*statuses, strict=strict)
    assert (report.verdict, report.exit_code) == (verdict, exit_code)


def test_json_has_a_schema_version_and_six_keys_for_each_check() -> None:
    contents = json.loads(json.dumps(report_of(Status.ok, Status.fail).as_json()))
    assert (contents["schema"], contents["schema_version"]) == ("wrinklefree.doctor", 1)
    assert contents["counts"] == {"ok": 1, "warn": 0, "fail": 1, "skip": 0}
    assert all(set(c) == {"id", "status", "found", "expected", "fix", "source"} for c in contents["checks"])


def breaks(subject: Subject) -> Iterator[Finding]:
    yield Finding(Status.ok, "half", part="first")
    raise KeyError("middle")


def test_a_check_that_breaks_is_its_own_failure_and_ends_no_other() -> None:
    checks = [
        Check("a.breaks", Subject, breaks),
        Check("a.silent", Subject, lambda _subject: []),
        Check("a.file", Subject, lambda _subject: (_ for _ in ()).throw(UnreadableError("no lock"))),
        Check("a.works", Subject, lambda _subject: [Finding(Status.ok, "fine")]),
        Check("a.other", Path, lambda _subject: [Finding(Status.ok, "of another subject")]),
    ]
    rows = run(checks, Subject())
    assert [(row.id, row.finding.status) for row in rows] == [
        ("a.breaks.first", "ok"),
        ("a.breaks", "fail"),
        ("a.silent", "fail"),
        ("a.file", "skip"),
        ("a.works", "ok"),
    ]
    assert "KeyError: 'middle'" in rows[1].finding.found
    assert "test_doctor_report.py" in rows[1].finding.found
    assert "said nothing" in rows[2].finding.found


def test_ids_of_rows_are_unique() -> None:
    findings = [
        Finding(Status.ok, "x", part="p"),
        Finding(Status.warn, "y", part="p"),
        Finding(Status.ok, "z"),
    ]
    rows = run([Check("a.twice", Subject, lambda _subject: findings)], Subject())
    assert [row.id for row in rows] == ["a.twice.p", "a.twice.p#2", "a.twice"]


def test_a_check_without_end_is_cut() -> None:
    endless = Check("a.endless", Subject, lambda _subject: iter(lambda: Finding(Status.ok, "again"), None))
    rows = run([endless], Subject())
    assert (len(rows), rows[-1].finding.status) == (201, "warn")


def shown(report: Report, encoding: str = "utf-8") -> str:
    data = io.BytesIO()
    file = io.TextIOWrapper(data, encoding=encoding)
    show(report, Console(file=file, width=10_000, highlight=False))
    file.flush()
    return data.getvalue().decode(encoding)


def test_a_problem_is_one_line_and_its_fix_the_next() -> None:
    rows = [
        Row("tools.git", Finding(Status.ok, "there", fix="not shown")),
        Row("tools.nvcc", Finding(Status.fail, "nvcc 12.4 " * 30, "13", "`apt-get install it`")),
        Row("files", Finding(Status.skip, "[red]\x1b[2J\u202e", fix="install it")),
    ]
    lines = shown(Report("workspace", Path("/x"), rows)).splitlines()
    assert lines[0] == "✗ tools"
    assert lines[1] == "  ✓ git  there"
    assert lines[2].startswith("  ✗ nvcc  nvcc 12.4")
    assert lines[2].endswith("(expected: 13)")
    assert lines[3].strip() == "→ `apt-get install it`"
    assert lines[5] == r"  - files  [red]\x1b[2J\u202e → install it"
    assert lines[6] == "Something must be mended: 1 ok, 0 warnings, 1 failures, 1 not looked at (/x)"


def test_other_encodings_get_other_marks() -> None:
    assert shown(report_of(Status.ok), "ascii").splitlines()[:2] == ["+ area", "  + 0  found"]


def test_ids_are_unique_and_have_an_area() -> None:
    for kind in {check.subject for check in CHECKS}:
        ids = [check.id for check in CHECKS if check.subject is kind]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "is no folder"),
        (lambda path: path.mkdir(), "is no repository of Python packages"),
        (lambda path: path.symlink_to(path.name), "does not exist"),
    ],
)
def test_a_wrong_path_is_one_line_and_exit_code_2(
    make: object, message: str, tmp_path: Path, runner: CliRunner
) -> None:
    path = tmp_path / "given"
    make(path)  # type: ignore[operator]
    result = runner.invoke(app, ["doctor", str(path)])
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert str(path) in result.output
    assert message in result.output


def test_a_child_that_crashes_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"No module named .*nothing"):
        ask(Path(sys.executable), "nothing", cwd=tmp_path)


def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(CommandError, match="took longer than 1 s"):
        output_of(command, cwd=tmp_path, timeout_s=1)


def test_the_doctors_own_process_imports_no_torch(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("torch==2.3.0\nflash-attn\n")
    source = (
        "import sys; from pathlib import Path; from wf_deployer.doctor.diagnosis import diagnose;"
        "from wf_deployer.doctor.workspace.checkout import Workspace; Workspace.facts = {'torch': None};"
        f"report = diagnose(Path({str(tmp_path)!r}), False);"
        "print(report.verdict, {'torch', 'ternary_kernels'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert done.stdout == "fail set()\n"
