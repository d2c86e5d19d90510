"""The `checkpoints` folder of a run: which steps are there, which one to resume, what to remove."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from wrinklefree.checkpoints.manifest import DamagedCheckpointError, verify_manifest

LOG = logging.getLogger("wrinklefree")
_STEP_FOLDER = re.compile(r"step_(\d{8,})")


class CheckpointStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Saved steps, oldest first. Folders under other names (unfinished writes) do not count."""
        if not self.folder.is_dir():
            return []
        matches = [_STEP_FOLDER.fullmatch(p.name) for p in self.folder.iterdir()]
        return sorted(int(m[1]) for m in matches if m)

    def newest(self, allow_previous: bool) -> Path | None:
        """The newest checkpoint, verified; None if there is none.

        Raises: DamagedCheckpointError if it is damaged, unless an older one may stand in.
        """
        for step in reversed(self.steps()):
            try:
                verify_manifest(self.path(step))
            except DamagedCheckpointError as error:
                if not allow_previous:
                    raise DamagedCheckpointError(f"{error}.{self._advice(step)}") from error
                LOG.warning("%s; looking for the one before it", error)
            else:
                return self.path(step)
        if self.steps():
            raise DamagedCheckpointError(f"all checkpoints in {self.folder} are damaged")
        return None

    def _advice(self, damaged: int) -> str:
        older = [step for step in self.steps() if step < damaged]
        if not older:
            return " There is no older one; force=true starts the run again."
        return (
            f" Set resume.allow_previous=true to go back to {self.path(older[-1]).name}, "
            "or force=true to start the run again."
        )

    def prune(self, keep_last: int, in_use: Collection[Path] = ()) -> None:
        """Remove all but the newest `keep_last` and those in use; each is renamed first, so none is ever half
        there."""
        for step in self.steps()[:-keep_last]:
            if self.path(step) in in_use:
                continue
            doomed = self.folder / f".{self.path(step).name}.old-pruned"
            self.path(step).rename(doomed)
            shutil.rmtree(doomed)
