"""Command lines in the checkout's Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from wf_deployer.doctor.base import Finding, Status
from wf_deployer.doctor.pages.checking import judge_pages
from wf_deployer.doctor.workspace.checkout import Workspace
from wf_deployer.workspace import workspace_root

_MOST = 20


def commands(workspace: Workspace) -> Iterator[Finding]:
    """Each that does not exist as it is written, in the command lines of this `wf`."""
    code = workspace.root if workspace.is_own else workspace_root()
    judgement = judge_pages(workspace.root, Path(sys.executable), code)
    for number, problem in enumerate(judgement.problems[:_MOST], 1):
        fix = f"mend {problem.page}:{problem.line}"
        yield Finding(Status.warn, str(problem), "a command that exists", fix, str(problem.page), str(number))
    if len(judgement.problems) > _MOST:
        yield Finding(
            Status.warn, f"{len(judgement.problems) - _MOST} more", part="more", fix="mend those above first"
        )
    if not judgement.problems:
        found = f"{judgement.num_lines} command lines in {judgement.num_pages} pages exist"
        yield Finding(Status.ok, found, source="*.md, --help")
