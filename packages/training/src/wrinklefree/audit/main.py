"""`wf audit RUN_FOLDER`: who ran what, and whether the log is as it was written."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wf_formats.boundary import boundary, given_path
from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wrinklefree.audit.log import AUDIT_FILE, Trail, digest, read_trail, summary_head

_DESCRIPTION = """Show the audit log of a run, and check that it is as it was written.

    {prog} outputs/mine/stage2

Each line holds the hash of the one before it. The hash of the last one is printed: kept elsewhere, it shows
later whether lines were cut off at the end. Exit codes: 0 unbroken, 1 changed, 2 a wrong request."""
_HASH = re.compile("[0-9a-f]{64}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises: SystemExit, after an error that is shown."""
    prog = os.environ.get("WF_PROG", "audit")
    parser = argparse.ArgumentParser(
        prog=prog,
        description=_DESCRIPTION.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="RUN_FOLDER", type=given_path)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument(
        "--head", metavar="SHA256", help="a hash that was printed earlier; its line must be there"
    )
    options = parser.parse_args(argv)
    with boundary():
        return _shown(options.folder, options.json, options.head)


def _shown(folder: Path, as_json: bool, head: str | None) -> int:
    if head is not None and not _HASH.fullmatch(head := head.lower()):
        raise RequestError(
            f"--head {printable(head)!r} is no SHA-256: give the 64 hexadecimal digits printed"
        )
    if not (folder / AUDIT_FILE).is_file() and summary_head(folder) is None:
        raise RequestError(
            f"{folder}: there is no {AUDIT_FILE}; give the folder of a run, OUTPUT/EXPERIMENT/STAGE"
        )
    trail = read_trail(folder)
    problems = [*trail.problems(), *_missing(folder, trail, head)]
    if as_json:
        found = {"events": trail.events, "head": trail.head, "problems": problems}
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for event in trail.events:
            sys.stdout.write(_line(event) + "\n")
        sys.stdout.write(f"{len(trail.lines)} lines, last one {trail.head}\n")
        for problem in problems:
            sys.stderr.write(f"error: {folder / AUDIT_FILE}: {problem}\n")
    return 1 if problems else 0


def _missing(folder: Path, trail: Trail, head: str | None) -> list[str]:
    """What was seen at the end once and is not there any more."""
    hashes = {digest(line) for line in trail.lines}
    told = {"--head": head, "summary.json": summary_head(folder)}
    return [
        f"{source} has seen a last line {value} that is not there: lines were changed or cut off"
        for source, value in told.items()
        if value is not None and value not in hashes
    ]


def _line(event: Mapping[str, Any]) -> str:
    """The most important of a line; everything is in the file and in the JSON."""
    if not event:
        return "(no JSON object)"
    who = f"{event.get('user')}@{event.get('host')}"
    git = event.get("git")
    words = [event.get("time"), event.get("event"), event.get("how"), event.get("signal"), who]
    if isinstance(git, dict):
        words += [
            event.get("stage"),
            f"commit {git.get('commit')}",
            "with changes" if git.get("dirty") else None,
        ]
    words.append(event.get("error"))
    return printable("  ".join(str(word) for word in words if word is not None))


if __name__ == "__main__":
    sys.exit(main())
