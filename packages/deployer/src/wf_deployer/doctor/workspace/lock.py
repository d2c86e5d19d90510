"""uv.lock: committed without hosts, completed in the work tree, the same files and hashes in both."""

from __future__ import annotations

from collections.abc import Iterator

from wf_deployer.doctor.base import Finding, Status
from wf_deployer.doctor.children import output_of
from wf_deployer.doctor.files import read_text
from wf_deployer.doctor.tools import find_tool
from wf_deployer.doctor.workspace.checkout import Workspace


def completed(workspace: Workspace) -> Iterator[Finding]:
    """The work tree's lock is the committed one, completed (scripts/lock check says so)."""
    assert workspace.lock is not None
    workspace.require_own("runs scripts/lock check")
    script = workspace.root / "scripts" / "lock"
    if find_tool("git") is None or not (workspace.root / ".git").exists():
        yield Finding(Status.skip, "no git repository: the committed lock is not known")
        return
    done = output_of([str(workspace.environment.python), str(script), "check"], cwd=workspace.root)
    if done.returncode != 0:
        found = (done.stderr.strip() or done.stdout.strip()).splitlines()
        fix = "dependencies changed: `uv lock && git add uv.lock`; else `git checkout uv.lock && uv sync`"
        yield Finding(
            Status.fail, found[0] if found else "refused", "the committed lock", fix, "scripts/lock check"
        )
        return
    is_bare = 'registry = "index"' in read_text(workspace.root / "uv.lock")
    found_text = done.stdout.strip() + (", not completed yet: `uv sync` does it" if is_bare else "")
    yield Finding(Status.ok, found_text, source="scripts/lock check")


def git_filter(workspace: Workspace) -> Iterator[Finding]:
    """Without the filter a completed lock shows as a change, and would be committed with its hosts."""
    if find_tool("git") is None or not (workspace.root / ".git").exists():
        yield Finding(Status.skip, "no git repository")
        return
    done = output_of(["git", "config", "--get", "filter.uvlock.clean"], cwd=workspace.root)
    if done.returncode == 0 and done.stdout.strip():
        yield Finding(Status.ok, "git strips uv.lock on add", source="git config")
    else:
        expected, fix = "the filter that .gitattributes names", "`python3 scripts/lock setup`"
        yield Finding(Status.warn, "uv.lock would be committed with its hosts", expected, fix, "git config")
