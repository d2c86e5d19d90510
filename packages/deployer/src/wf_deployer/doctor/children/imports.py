"""deptry over members of a workspace: {member: [{"rule", "module", "file"}]}.

Reads {"members": {name: folder}, "modules": {name: its import name}, "ignores": {name: {rule: [modules]}}}.
It has to run in the members' own environment, else every import looks as if it were missing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deptry.cli import cli  # type: ignore[import-untyped]  # it has no py.typed


def main() -> None:
    question = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        answers = {
            name: violations(Path(member), _options(name, question), Path(folder) / "found.json")
            for name, member in question["members"].items()
        }
    sys.stdout.write(json.dumps(answers) + "\n")


def violations(member: Path, options: list[str], output: Path) -> list[dict[str, str]]:
    """Raises: RuntimeError if deptry could not look at the member."""
    os.chdir(member)
    output.unlink(missing_ok=True)
    arguments = ["src", "--json-output", str(output), "--no-ansi", *options]
    told = io.StringIO()
    ended = contextlib.suppress(SystemExit)  # that is how it ends, with and without findings
    with ended, contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        cli(arguments)
    if not output.is_file():
        raise RuntimeError(f"deptry in {member}: {told.getvalue()[-300:]}")
    return [
        {
            "rule": found["error"]["code"],
            "module": found["module"],
            "file": f"{found['location']['file']}:{found['location']['line'] or 1}",
        }
        for found in json.loads(output.read_text())
    ]


def _options(member: str, question: Mapping[str, Any]) -> list[str]:
    names = ",".join(f"{name}={module}" for name, module in question["modules"].items())
    options = ["--package-module-name-map", names]
    if member in question["ignores"]:
        ignored = question["ignores"][member]
        ignores = ",".join(f"{rule}={'|'.join(names)}" for rule, names in ignored.items())
        options += ["--per-rule-ignores", ignores]
    return options


if __name__ == "__main__":
    main()
