"""Which ternary format won on this machine, kept beside the packed models: a small JSON file for each shape.

The file is named after the processor, the instruction set and the shape (`format_race.ShapeClass`). An answer
counts for the code that found it; of other code it says which format to keep unless the other is clearly
faster, so that noise makes no kept model anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from ternary_kernels import _native
from ternary_kernels.format_race import BATCH_TOKENS, FORMATS, Race, ShapeClass
from ternary_kernels.packed.key import code_sha256
from ternary_kernels.packed.settings import CacheSettings
from ternary_kernels.packing import PackedTernary
from wf_formats.atomic import atomic_write_text
from wf_formats.environment import processor
from wf_formats.errors import UserError

FOLDER = "formats"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What a race found."""

    processor: str
    isa: str
    shape: dict[str, int]
    winner: PackedTernary
    code_sha256: str
    seconds: dict[str, list[float]]
    """By format: of a token and of a batch."""

    def check(self) -> None:
        """Raises ValueError, TypeError where a file held something else."""
        texts = (self.processor, self.isa, self.code_sha256)
        if self.winner not in FORMATS or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"the winner is {self.winner!r:.60}")
        if not all(type(size) is int for size in astuple(ShapeClass(**self.shape))):
            raise ValueError(f"the shape is {self.shape!s:.60}")
        times = [self.seconds[name] for name in FORMATS] if isinstance(self.seconds, dict) else []
        if not times or not all(
            isinstance(s, float) and 0 < s < math.inf for token, batch in times for s in (token, batch)
        ):
            raise ValueError(f"the times are {self.seconds!s:.60}")

    def __str__(self) -> str:
        other = next(name for name in FORMATS if name != self.winner)
        pairs = zip(self.seconds[other], self.seconds[self.winner], strict=True)
        token, batch = (its / own for its, own in pairs)
        beside = f"beside it {other} takes {token:.2f}, {batch:.2f} for {BATCH_TOKENS} tokens"
        return f"{self.winner} for {self.shape['rows']} x {self.shape['cols']} ({beside})"


class FormatRecords:
    """The answers in one folder, which is made when the first is written."""

    def __init__(self, folder: Path, warn: Callable[[str, Exception], None]) -> None:
        """warn: says what hinders writing; the words have places for the folder and the error."""
        self._folder, self._warn = folder / FOLDER, warn

    def known(self, shape: ShapeClass) -> PackedTernary | None:
        """Of a race of this code."""
        answer = self._answer(shape)
        return None if answer is None or answer.code_sha256 != code_sha256() else answer.winner

    def holder(self, shape: ShapeClass) -> PackedTernary | None:
        """Of the last race."""
        answer = self._answer(shape)
        return None if answer is None else answer.winner

    def add(self, shape: ShapeClass, winner: PackedTernary, race: Race) -> None:
        """Remembers an answer; where it cannot be written that is a warning."""
        seconds = {name: list(its) for name, its in race.seconds.items()}
        answer = Answer(*_machine(), asdict(shape), winner, code_sha256(), seconds)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            atomic_write_text(self._path(shape), json.dumps(asdict(answer), indent=2) + "\n")
        except (UserError, OSError) as error:
            self._warn("which format is faster is not kept in %s: %s", error)

    def _answer(self, shape: ShapeClass) -> Answer | None:
        path = self._path(shape)
        answer = _read(path)
        if answer is None or (*_machine(), asdict(shape)) == (answer.processor, answer.isa, answer.shape):
            return answer
        _log.warning("%s is the answer of another race and is not used", path)
        return None

    def _path(self, shape: ShapeClass) -> Path:
        text = json.dumps([*_machine(), asdict(shape)])
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def remembered() -> Iterator[Answer]:
    """What the cache has for this processor and instruction set.

    Raises:
        RequestError, CacheError: as `CacheSettings.from_environment`.
    """
    if (settings := CacheSettings.from_environment()) is not None:
        yield from answers_here(settings.folder)


def answers_here(folder: Path) -> Iterator[Answer]:
    """The same of a cache's folder."""
    for path in sorted((folder / FOLDER).glob("*.json")):
        answer = _read(path)
        if answer is not None and (answer.processor, answer.isa) == _machine():
            yield answer


def _machine() -> tuple[str, str]:
    return processor(), _native.info()["isa"]


def _read(path: Path) -> Answer | None:
    """None: there is none, or none that can be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise ValueError("it is no regular file")
        answer = Answer(**json.loads(path.read_bytes()))
        answer.check()
    except FileNotFoundError:
        return None
    except (OSError, LookupError, RecursionError, TypeError, ValueError) as error:
        _log.warning("%s is no answer of a race and is not used: %s", path, error)
        return None
    return answer
