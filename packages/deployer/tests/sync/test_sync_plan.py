"""What would be sent and deleted, and which projects get `uv sync`."""

from __future__ import annotations

import pytest

from wf_deployer.sync.dependencies import pending_projects
from wf_deployer.sync.plan import make_plan
from wf_formats.errors import RequestError


def test_only_what_differs_is_sent() -> None:
    plan = make_plan({"a": "f1", "b": "f2", "c": "f3"}, {}, {"a": "f1", "b": "x2", "c": None}, [])
    assert plan.send == ["b", "c"]
    assert plan.delete == {}


def test_only_our_files_that_are_gone_here_and_unchanged_there_are_deleted() -> None:
    sent = {"a": ["f1"], "gone": ["f2", "f3"], "changed": ["f4"], "absent": ["f5"]}
    there = {"a": "f1", "gone": "f3", "changed": "f9", "absent": None, "stranger": "f6"}
    plan = make_plan({"a": "f1"}, sent, there, ["gone", "changed", "absent", "stranger"])
    assert plan.delete == {"gone": ["f2", "f3"]}
    assert plan.kept == ["changed"]
    unasked = make_plan({"a": "f1"}, sent, there, [])
    assert (unasked.delete, unasked.kept) == ({}, [])


@pytest.mark.parametrize(("num_gone", "is_refused"), [(2, False), (3, True)])
def test_more_than_half_is_refused_without_force(num_gone: int, is_refused: bool) -> None:
    sent = {str(i): [f"f{i}"] for i in range(4)}
    there = {path: ids[0] for path, ids in sent.items()}
    plan = make_plan(
        {path: there[path] for path in list(there)[num_gone:]}, sent, there, list(sent)[:num_gone]
    )
    plan.check_deletions(force=True)
    if is_refused:
        with pytest.raises(RequestError, match="3 of 4 files that were sent would be deleted, more than 50%"):
            plan.check_deletions(force=False)
    else:
        plan.check_deletions(force=False)


def test_projects_are_pending_when_their_files_for_uv_change() -> None:
    identities = {"pyproject.toml": "f1", "uv.lock": "f2", "a/pyproject.toml": "f3", "a/x.py": "f4"}
    first = pending_projects((".", "a"), identities, {})
    assert list(first) == [".", "a"]
    assert pending_projects((".", "a"), identities, first) == {}
    assert pending_projects((".", "a"), identities | {"a/x.py": "f5"}, first) == {}
    assert list(pending_projects((".", "a"), identities | {"uv.lock": "f5"}, first)) == [".", "a"]


def test_members_count_for_their_workspace_and_neighbours_do_not() -> None:
    """A script that a member gains is no change of the lock."""
    identities = {"pyproject.toml": "f1", "a/pyproject.toml": "f3", "ab/pyproject.toml": "f4"}
    projects = (".", "a", "ab")
    first = pending_projects(projects, identities, {})
    assert list(pending_projects(projects, identities | {"a/pyproject.toml": "f5"}, first)) == [".", "a"]
    assert list(pending_projects(projects, identities | {"ab/pyproject.toml": "f5"}, first)) == [".", "ab"]
