"""The folder of one run: <output_dir>/<experiment>/<stage>.

    run.json       identity: fingerprint, values, commit, dirty flag
    checkpoints/   step_XXXXXXXX/ (checkpoints/store.py)
    parts/         finished parts of a stage without steps (part_store.py)
    metrics.csv    one row per step
    mixture.png    shares of the sources, of a run that steers them
    audit.jsonl    who started and ended it, with which code and data (audit/)
    progress.json  where it stands, while it works
    upload.json    where its uploads are (uploads/run_uploads.py)
    final/         the result with its figures; its presence says that the run is complete
    summary.json   the same figures, or those at which the run was stopped

One process works in it at a time (an advisory lock on `.<stage>.lock` beside the folder, which the
system releases when the process ends, however it ends).
"""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from wf_formats.aside import move_aside
from wf_formats.atomic import atomic_write_text
from wf_formats.json_file import read_json, read_value
from wf_formats.locks import locked, try_lock_of_process
from wf_formats.run_files import FIGURES_FILE, FINAL, RUN_FILE, is_complete
from wf_formats.targets import check_folder, check_way
from wf_formats.temporaries import leftovers
from wf_stores.downloading import is_unfinished
from wrinklefree.changed_data import decide
from wrinklefree.checkpoints.files import CHECKPOINT
from wrinklefree.checkpoints.manifest import DamagedCheckpointError
from wrinklefree.checkpoints.part_store import PartStore
from wrinklefree.checkpoints.store import CheckpointStore
from wrinklefree.config.root import ChangedData
from wrinklefree.contents import DATA_CONTENT
from wrinklefree.errors import RunError
from wrinklefree.fingerprint import is_record
from wrinklefree.finite import figures_text
from wrinklefree.identity import RunIdentity

LOG = logging.getLogger("wrinklefree")


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = CheckpointStore(path / "checkpoints")
        self.parts = PartStore(path / "parts")

    @property
    def final(self) -> Path:
        return self.path / FINAL

    @property
    def is_complete(self) -> bool:
        return is_complete(self.path)

    @property
    def has_progress(self) -> bool:
        """Whether an interrupted run left something to go on from."""
        return bool(self.store.steps()) or not self.parts.is_empty

    def lock(self) -> AbstractContextManager[None]:
        """Raises: RunError when another process works in the folder."""
        # Beside the folder, since `move_aside` renames the folder under the lock. And not inherited: a killed
        # process's data workers would keep it for seconds.
        path = self.path.with_name(f".{self.path.name}.lock")
        taken = RunError(f"another process is training in {self.path}")
        return locked(path, taken, try_lock_of_process)

    def check_place(self) -> None:
        """Raises: RequestError where the folder cannot be, because of what is there."""
        check_way(self.final)

    def move_aside(self) -> None:
        """Rename an existing run, so that it can be run again without losing it. Needs the lock."""
        if not (self.path / RUN_FILE).is_file():
            return
        LOG.warning("force=true: the run that was there is now in %s", move_aside(self.path))

    def remove_leftovers(self) -> None:
        """Remove what a killed process left behind: unfinished writes, downloads, removals. Needs a lock."""
        for folder in filter(Path.is_dir, (self.path, self.store.folder, self.parts.folder)):
            fetched = [path for path in folder.iterdir() if is_unfinished(path.name)]
            for leftover in (*leftovers(folder), *fetched):
                LOG.info("removing %s (left by an interrupted run)", leftover)
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def as_begun(self, identity: RunIdentity, *, in_its_shares: bool) -> RunIdentity:
        """That of a run which goes on here as it was recorded. Raises: RunError.

        Args: in_its_shares: with its data in as many shares as before.
        """
        stored = self.stored_identity()
        if stored is None or not (self.is_complete or self.has_progress):
            return identity
        if in_its_shares and not self.is_complete:
            identity = identity.in_shares_of(stored["values"])
        return identity.begun_like(stored)

    def check(self, identity: RunIdentity, data: ChangedData | None) -> None:
        """Raises: RunError when the run in the folder is another one, naming the differing keys; RequestError
        when something that is not ours stands where the result goes.

        A run that has left no checkpoint is nothing to protect: another may take its place.

        Args: data is what to do when a run to resume had other data.
        """
        if not self.is_complete:
            check_folder(self.final, CHECKPOINT)
        stored = self.stored_identity()
        if stored is None or not (self.is_complete or self.has_progress):
            return
        differences = identity.differences(stored)
        if (
            self.store.steps()
            and not self.is_complete
            and all(key.startswith(DATA_CONTENT) for key in differences)
        ):
            if differences:
                decide(data, [key.removeprefix(DATA_CONTENT) for key in differences], self.path)
        elif differences:
            raise RunError(
                f"{self.path} holds a different run:\n  "
                + "\n  ".join(differences.values())
                + "\nUse another experiment=NAME, or force=true to move that run aside."
                + (f" {self.nothing_to_resume(data)}" if self.is_complete and data is not None else "")
            )
        if not self.is_complete:
            _warn_of_changes(identity, stored)

    def nothing_to_resume(self, data: ChangedData) -> str:
        """What resume.data means for a run that is complete, and what to ask for instead."""
        return (
            f"resume.data={data} is for a run that was interrupted, and this one is complete: force=true "
            f"runs it again with the data as it is now, experiment=NAME training.start_from={self.final} "
            "trains its result further."
        )

    def stored_identity(self) -> dict[str, Any] | None:
        """Raises: RunError for a run.json that is damaged."""
        path = self.path / RUN_FILE
        if not path.is_file():
            return None
        stored = read_value(path, RunError)
        if not (is_record(stored) and isinstance(stored.get("git"), dict)):
            raise RunError(
                f"{path} is damaged: no values and state of the code; force=true moves that run aside"
            )
        record: dict[str, Any] = stored
        return record

    def store_identity(self, identity: RunIdentity) -> None:
        """That of a new run; of one to resume the contents of its files, which `check` has allowed."""
        stored = self.stored_identity()
        contents = identity.record
        if stored is not None and self.has_progress:
            if not identity.differences(stored):
                return
            contents = stored | identity.compared
        atomic_write_text(self.path / RUN_FILE, json.dumps(contents, indent=2, sort_keys=True) + "\n")

    def figures(self) -> dict[str, Any]:
        """Figures of the completed run, which came with `final`; none in a folder put there by hand."""
        path = self.final / FIGURES_FILE
        return read_json(path, DamagedCheckpointError) if path.is_file() else {}

    def write_summary(self, summary: dict[str, Any]) -> None:
        atomic_write_text(self.path / "summary.json", figures_text(summary))


def _warn_of_changes(identity: RunIdentity, stored: dict[str, Any]) -> None:
    """What may make the resumed run differ from an uninterrupted one, though it is the same run."""
    if stored["git"]["commit"] != identity.git.commit:
        LOG.warning(
            "the code has changed since this run began (commit %s, now %s)",
            stored["git"]["commit"],
            identity.git.commit,
        )
    if differences := identity.rounding_differences(stored.get("rounding", {})):
        LOG.warning(
            "the run goes on with other settings than it began with, so it will not equal an "
            "uninterrupted one to the bit:\n  %s",
            "\n  ".join(differences),
        )
