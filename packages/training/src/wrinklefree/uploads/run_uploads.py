"""Where a run's uploads are, and what a run on a machine without them takes from there.

    <URL>/<experiment>/<stage>/<fingerprint>/step_XXXXXXXX   checkpoints
    <URL>/<experiment>/<stage>/<fingerprint>/final           the result
    <URL>/<experiment>/<stage>/<fingerprint>/run.json        the configuration, to read and to compare

<fingerprint> is the first digits of the run's (identity.py), so another configuration never finds these;
where a default has become another, run.json tells. A run whose fingerprint had another form when it began is
found by its run.json, and keeps it. A run that was done again (force=true) has `-2`, `-3` behind it;
upload.json in the run folder keeps which one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_json
from wf_formats.run_files import FINAL, RUN_FILE
from wf_stores import Keep, Store, complete_names, download_folder, open_store, retain
from wf_stores.errors import DamagedUploadError, ObjectMissingError
from wf_stores.records import create_once, read_whole
from wf_stores.retention import number_of
from wrinklefree.checkpoints.manifest import DamagedCheckpointError
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import GradientConfig
from wrinklefree.contents import CONTENT
from wrinklefree.errors import RunError
from wrinklefree.fingerprint import is_record
from wrinklefree.identity import RunIdentity
from wrinklefree.run_folder import RunFolder
from wrinklefree.uploads.place import upload_url

LOG = logging.getLogger("wrinklefree")
RECORD_FILE = "upload.json"
_DIGITS = 16
_WAIT_S, _LOOK_AGAIN_S = 3600.0, 0.2


class RunUploads:
    """Of one run.

    Raises: RequestError (no such URL, no such bucket), StoreError (no access).
    """

    def __init__(self, config: TrainConfig, run: RunFolder, identity: RunIdentity) -> None:
        assert isinstance(config.training, GradientConfig)
        self.store: Store = open_store(upload_url(config))
        self._run, self._identity = run, identity
        self._keep_last = config.training.checkpoint.upload_keep_last
        self._allow_previous = config.resume.allow_previous
        self._is_anew = config.force
        self._shares_output = config.distributed.shared_output
        self._base = f"{config.experiment}/{config.training.stage}"
        self._folder = ""

    @property
    def url(self) -> str:
        return f"{self.store.url}/{self._folder}"

    def name_of(self, folder: Path) -> str:
        """Of the upload of a checkpoint or the result."""
        return f"{self._folder}/{folder.name}"

    def prepare(self) -> None:
        """Finds the run's place and shows that it can be written. Needs the run folder's lock."""
        self._folder = self._recorded() or self._found(is_anew=self._is_anew)
        record = {"fingerprint": self._identity.fingerprint, **self._identity.compared}
        text = json.dumps(record, indent=2, sort_keys=True) + "\n"
        if not create_once(self.store, f"{self._folder}/{RUN_FILE}", text.encode()):
            self._refuse_another()

    def as_begun(self) -> RunIdentity:
        """That of a run whose uploads are under a fingerprint of another form, which it began with."""
        places = sorted({name.rpartition("/")[0] for name in complete_names(self.store, self._base)})
        for place in () if self._numbers(places) or self._is_anew else places:
            there = self._record_of(place)
            if there is not None and not self._identity.differences(there):
                self._identity = self._identity.begun_like(there)
                break
        return self._identity

    def record(self) -> None:
        """Keeps the place in the run folder, once that is this run's."""
        atomic_write_json(self._run.path / RECORD_FILE, {"url": self.store.url, "folder": self._folder})

    def restore(self) -> None:
        """Takes the result, else the newest checkpoint, into a run folder that has none.

        Raises:
            DamagedUploadError: it is damaged, unless an older one may stand in.
            RunError: it is another run's.
        """
        names = self._names()
        for name in names:
            target = self._target(name)
            LOG.info("fetching %s/%s", self.url, name)
            try:
                download_folder(self.store, f"{self._folder}/{name}", target)
            except DamagedUploadError as error:
                if not self._allow_previous or name == names[-1]:
                    raise DamagedUploadError(f"{error}.{self._advice(names)}") from error
                LOG.warning("%s; taking the one before it", error)
            else:
                self._check_own(target)
                return

    def wait_for_restored(self) -> None:
        """In a process that is not the first: until that one has restored what there is.

        The first one of a node with an output folder of its own restores there.
        """
        self._folder = self._recorded() or self._found(is_anew=self._is_anew)
        if self._is_anew or self._run.has_progress or not self._names():
            return
        if not self._shares_output and os.environ.get("LOCAL_RANK") == "0":
            self.restore()
            return
        end_s = time.monotonic() + _WAIT_S
        while not (self._run.is_complete or self._run.store.steps()):
            if time.monotonic() > end_s:
                raise RunError(f"the first process has not fetched {self.url} within {_WAIT_S:.0f} s")
            time.sleep(_LOOK_AGAIN_S)

    def prune(self) -> list[str]:
        """Removes the oldest checkpoints in the store, where only some are kept."""
        if self._keep_last is None:
            return []
        return retain(self.store, self._folder, Keep(self._keep_last))

    def _recorded(self) -> str | None:
        """The place that an earlier start of this run chose."""
        path = self._run.path / RECORD_FILE
        if not path.is_file():
            return None
        record = read_json(path, DamagedCheckpointError)
        folder = str(record.get("folder"))
        is_own = record.get("url") == self.store.url and folder.startswith(self._first)
        return folder if is_own else None

    @property
    def _first(self) -> str:
        return f"{self._base}/{self._identity.fingerprint[:_DIGITS]}"

    def _found(self, is_anew: bool) -> str:
        """The newest place that this run has in the store, or the next one."""
        places = {name.rpartition("/")[0] for name in complete_names(self.store, self._base)}
        numbers = self._numbers(places)
        number = max(numbers, default=0) + 1 if is_anew else max(numbers, default=1)
        return self._first if number == 1 else f"{self._first}-{number}"

    def _numbers(self, places: Iterable[str]) -> list[int]:
        """Of those that are this run's."""
        pattern = re.compile(re.escape(self._first) + r"(?:-(\d+))?")
        return [int(match[1] or 1) for place in places if (match := pattern.fullmatch(place))]

    def _record_of(self, place: str) -> dict[str, Any] | None:
        """Its run.json; None where that is none of ours."""
        try:
            found = json.loads(read_whole(self.store, f"{place}/{RUN_FILE}"))
        except (ObjectMissingError, DamagedUploadError, ValueError, RecursionError):
            return None
        return found if is_record(found) else None

    def _refuse_another(self) -> None:
        """Raises: RunError for a place whose run had another configuration, though the same fingerprint."""
        there = self._record_of(self._folder)
        differences = {} if there is None else self._identity.differences(there)
        if told := [line for key, line in differences.items() if not key.startswith(CONTENT)]:
            listed = "\n  ".join(told)
            raise RunError(
                f"{self.url} holds a different run:\n  {listed}\nUse another experiment=NAME, or force=true, "
                "which takes another place beside it."
            )

    def _names(self) -> list[str]:
        """The result, then checkpoints, the newest first."""
        found = [name.rpartition("/")[2] for name in complete_names(self.store, self._folder)]
        steps = [(number, name) for name in found if (number := number_of(name)) is not None]
        return [FINAL] * (FINAL in found) + [name for _, name in sorted(steps, reverse=True)]

    def _target(self, name: str) -> Path:
        return self._run.final if name == FINAL else self._run.store.path(number_of(name) or 0)

    def _advice(self, names: list[str]) -> str:
        if len(names) == 1:
            return " There is no older one; force=true starts the run again."
        return " Set resume.allow_previous=true to take the one before it, or force=true to start again."

    def _check_own(self, folder: Path) -> None:
        from bitnet_arch import read_meta

        if (there := read_meta(folder).get("fingerprint")) != self._identity.fingerprint:
            raise DamagedCheckpointError(
                f"{folder}, from {self.url}, is of the run {there!r:.80}, not of this one "
                f"({self._identity.fingerprint}); remove both, or choose another experiment=NAME"
            )
