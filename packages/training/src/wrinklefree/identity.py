"""What makes a run this run: its fingerprint, and the state of the code.

The fingerprint (fingerprint.py) is of everything in the configuration that changes the result and is not at
its default, plus the exact checkpoint that the run starts from and the content of the local files that it
reads (contents.py). A run that goes on keeps the one that it began with. What looks like a password or a key
counts and is written down nowhere (hidden.py).
Where it runs, how it logs and how often it saves do not count. Recorded beside it, not hashed, are commit and
dirty flag (after a commit that changes a README an unfinished run has to go on) and the settings that change
the last bits only. A resumed run warns when these differ.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wf_formats.overrides import shown
from wf_formats.secrets import redacted_value
from wrinklefree.config.root import TrainConfig
from wrinklefree.contents import CONTENT, contents_of
from wrinklefree.fingerprint import (
    defaults_and_types,
    digest,
    expanded,
    flatten,
    hidden_that_differ,
    is_same,
    pairs_that_differ,
)
from wrinklefree.hidden import hidden_digests

LOG = logging.getLogger("wrinklefree")
INFRASTRUCTURE_KEYS = (
    "experiment",
    "output_dir",
    "force",
    "num_threads",
    "logging",
    "resume",
    "model.allow_unservable",
    "model.teacher.folder",
    "model.teacher.timeout_s",
    "model.teacher.url",
    "distributed.kind",
    "distributed.accelerator",
    "distributed.backend",
    "distributed.shared_output",
    "training.start_from",
)
"""Left out of the fingerprint, with those that the stage names."""

_DIGEST = re.compile("[0-9a-f]{64}")
_RANK_KEYS = ("distributed.devices", "distributed.num_nodes")
_PASSES = "training.accumulate_steps"
_SHARES = "data.num_shares"

_SOURCE_KEYS_THAT_MAY_CHANGE = ("on_bad_record", "max_record_bytes")

ROUNDING_KEYS = (
    "num_threads",
    "distributed.kind",
    "distributed.accelerator",
    "distributed.backend",
    *_RANK_KEYS,
    _PASSES,
)
"""Of these, what changes the order of sums: the same run up to rounding, but not to the bit."""


@dataclass(frozen=True)
class GitState:
    commit: str | None
    """None: not in a git work tree, or git does not tell."""
    dirty: bool | None
    """None: git does not tell. uv.lock does not count, since uv completes it in place."""


@dataclass(frozen=True)
class RunIdentity:
    values: dict[str, Any]
    """Flat `dotted.key` -> JSON value."""
    git: GitState
    rounding: dict[str, Any]
    """`dotted.key` of ROUNDING_KEYS -> JSON value."""
    defaults: frozenset[str]
    types: dict[str, str]
    hidden: dict[str, str] = field(default_factory=dict)
    """All three as fingerprint.py says."""
    begun_as: str | None = None
    """The fingerprint that the run began with, where its form was another."""

    @property
    def fingerprint(self) -> str:
        return self.begun_as or digest(self.values, self.defaults, self.types, self.hidden)

    @property
    def compared(self) -> dict[str, Any]:
        """The record that others are compared with."""
        defaults = sorted(self.defaults)
        return {"values": self.values, "defaults": defaults, "types": self.types, "hidden": self.hidden}

    @property
    def record(self) -> dict[str, Any]:
        """What is written down."""
        git = dataclasses.asdict(self.git)
        return {"fingerprint": self.fingerprint, **self.compared, "git": git, "rounding": self.rounding}

    def differences(self, record: Mapping[str, Any]) -> dict[str, str]:
        """`key` -> `key: there, here` for every value that differs from those of another run's record.

        Contents that only one of them knows are no difference.
        """
        other = {**record, "values": by_step(record["values"])}
        found = {
            key: _difference(key, *pair)
            for key, pair in pairs_that_differ(self.compared, other).items()
            if not (key.startswith(CONTENT) and _is_in_one(key, self.values, other["values"]))
        }
        for key in hidden_that_differ(self.compared, other):
            found.setdefault(key, _hidden_difference(key, self.values))
        if _PASSES in found:  # of all processes together
            found[_PASSES] = found[_PASSES].replace(_PASSES, f"{_PASSES} x processes", 1)
        return found

    def begun_like(self, record: Mapping[str, Any]) -> RunIdentity:
        """With the fingerprint of a record of this run."""
        begun_as = record.get("fingerprint")
        if not isinstance(begun_as, str) or not _DIGEST.fullmatch(begun_as) or self.differences(record):
            return self
        return dataclasses.replace(self, begun_as=begun_as)

    def in_shares_of(self, other: dict[str, Any]) -> RunIdentity:
        """With the data in as many shares as another run's."""
        shares = {key: value for key, value in by_step(other).items() if key == _SHARES}
        values = {key: value for key, value in self.values.items() if key != _SHARES}
        return dataclasses.replace(self, values=values | shares)

    def rounding_differences(self, other: dict[str, Any]) -> list[str]:
        """The same for those of `rounding` that the other one has recorded."""
        known = sorted(self.rounding.keys() & other.keys())
        return [
            _difference(k, other[k], self.rounding[k])
            for k in known
            if not is_same(other[k], self.rounding[k])
        ]


def _is_in_one(key: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    return (key in here) is not (key in there)


def _difference(key: str, there: Any, here: Any) -> str:
    if key.startswith(CONTENT):
        return (
            f"{key}: the files are others than those that the run was made with ({there} there, {here} now)"
        )
    return f"{key}: {shown(there)} there, {shown(here)} now"


def _hidden_difference(key: str, values: Mapping[str, Any]) -> str:
    here = shown(expanded(values).get(key))
    return (
        f"{key}: another value than the run was made with ({here} here; what looks like a password or a key "
        "is not shown)"
    )


def by_step(values: dict[str, Any]) -> dict[str, Any]:
    """The values with those of processes as if one made all forward passes of a step: who makes them changes
    the rounding alone, as long as the data is in as many shares. One share, as one process has it, is not
    named."""
    counts = [values.get(key, 1) for key in (*_RANK_KEYS, _PASSES)]
    if any(type(count) is not int for count in counts):
        return values
    num_ranks = counts[0] * counts[1]
    found = {key: value for key, value in values.items() if key != _SHARES}
    found |= {key: 1 for key in _RANK_KEYS if key in values}
    if _PASSES in values:
        found[_PASSES] = counts[2] * num_ranks
    num_shares = values.get(_SHARES) or num_ranks
    return found if num_shares == 1 else found | {_SHARES: num_shares}


def identify(
    config: TrainConfig, parent: str | None, work_tree: Path, stage_keys: Sequence[str] = ()
) -> RunIdentity:
    """Identity of the run of `config` that starts from the checkpoint with digest `parent`.

    Args: stage_keys are further keys that do not change the result (Stage.infrastructure_keys).
    """
    real = json.loads(json.dumps(dataclasses.asdict(config)))
    flat = flatten(redacted_value("", real))
    for source in flat["data.sources"]:
        # The records of a run that goes on were good so far, or were left out already.
        for key in _SOURCE_KEYS_THAT_MAY_CHANGE:
            source.pop(key, None)
    rounding = {key: flat[key] for key in ROUNDING_KEYS if key in flat}
    if config.distributed.num_readers == 1:  # several may make its passes together
        flat |= dict.fromkeys(_RANK_KEYS, 1)
    left_out = (*INFRASTRUCTURE_KEYS, *stage_keys)
    counting = {key: value for key, value in flat.items() if not _is_one_of(key, left_out)}
    hidden = hidden_digests(expanded(flatten(real)), expanded(counting))
    values = by_step(counting)
    rounding["num_threads"] = torch.get_num_threads()
    values |= {"parent": parent} | contents_of(config)
    known, types = defaults_and_types(config)
    defaults = {key for key, value in expanded(values).items() if key in known and is_same(known[key], value)}
    types = {key: name for key, name in types.items() if not _is_one_of(key, left_out)}
    return RunIdentity(values, git_state(work_tree), rounding, frozenset(defaults), types, hidden)


def _is_one_of(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


class _GitError(RuntimeError):
    """Git is there and so is a work tree, but it gives no answer."""


def git_state(work_tree: Path) -> GitState:
    """State of the repository around `work_tree`. Where git gives no answer, that is logged."""
    try:
        if _git(work_tree, "rev-parse", "--git-dir") is None:
            return GitState(None, dirty=False)
        commit = _git(work_tree, "rev-parse", "HEAD")
        status = _git(
            work_tree,
            "status",
            "--porcelain",
            "--untracked-files=normal",
            "--",
            ":/",
            ":(top,exclude)uv.lock",
        )
    except _GitError as error:
        LOG.warning("the commit is not recorded: %s", error)
        return GitState(None, dirty=None)
    return GitState(commit, bool(status))


def _git(work_tree: Path, *arguments: str) -> str | None:
    """Output of a git command; None where there is no git or no repository. Raises: _GitError."""
    command = ["git", "-C", str(work_tree), *arguments]
    environment = os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, env=environment
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired as error:
        raise _GitError(str(error)) from error
    if done.returncode == 0:
        return done.stdout.strip()
    if "not a git repository" in done.stderr:
        return None
    raise _GitError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
