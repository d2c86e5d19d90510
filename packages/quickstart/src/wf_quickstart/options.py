"""What a quickstart was asked for, and the settings that follow from it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_handler.config import SUFFIXES
from wf_formats.diffusion import BlockDiffusion, check_autoregressive, read_settings
from wf_formats.errors import RequestError
from wf_formats.file_names import CONFIG_FILE
from wf_formats.packaged import PACKAGED_MODEL, ModelSource
from wf_formats.targets import check_apart, check_way
from wf_quickstart.errors import QuickstartRequestError

DEFAULT_MINUTES = 10.0
MIN_MINUTES = 4.0
"""Of the packaged model on two cores; less would leave no time to calibrate."""

MAX_MINUTES = 525_600
"""A year, the most that a stage can be planned into."""

MIN_DISTIL_MINUTES = 6.0
"""With stage 3, which loads both models and needs time to train."""


@dataclass(frozen=True)
class Options:
    """Everything that changes the result, except `output`.

    Attributes:
        name: Hub id or absolute folder; None for the packaged model.
        minutes: Of the whole quickstart; None where the steps are given.
        num_distil_steps: Steps of the distillation that ends stage 1.5, and of stage 3; None: planned into
            the minutes.
        texts: The user's text files; empty: the documentation of this Python.
        texts_digest: SHA-256 over their contents.
        distil: Whether stage 3 follows stage 1.5.
    """

    source: ModelSource
    name: str | None
    minutes: float | None
    num_distil_steps: int | None
    texts: tuple[Path, ...]
    texts_digest: str
    output: Path
    distil: bool = False

    @property
    def model_label(self) -> str:
        if self.name is None:
            return PACKAGED_MODEL
        return self.name.rstrip("/").rsplit("/", 1)[-1]

    def identity(self) -> dict[str, Any]:
        """What must be the same for a folder to be continued (JSON)."""
        return {
            "model": str(self.source) if self.name is None else f"{self.source}:{self.name}",
            "minutes": self.minutes,
            "steps": self.num_distil_steps,
            "text": [str(path) for path in self.texts] or "packaged",
            "text_digest": self.texts_digest,
            **({"distil": True} if self.distil else {}),
        }


def parse_options(
    model: str,
    steps: int | None,
    output: Path,
    texts: list[Path],
    minutes: float | None = None,
    distil: bool = False,
) -> Options:
    """The options as the steps work with them; without steps and minutes DEFAULT_MINUTES.

    Raises:
        QuickstartRequestError: both steps and minutes; too few minutes to distil.
        QuickstartRequestError: a model that is not named as it should be; a text that is missing or of no
            known kind.
        RequestError: the output is in the model's folder or around it, or no place for a folder.
    """
    check_way(output.expanduser())
    if minutes is not None and not (math.isfinite(minutes) and minutes <= MAX_MINUTES):
        raise QuickstartRequestError(f"--minutes {minutes}: give a number of minutes, at most {MAX_MINUTES}")
    if steps is None:
        minutes = DEFAULT_MINUTES if minutes is None else minutes
    elif minutes is not None:
        raise QuickstartRequestError(
            f"--steps {steps} and --minutes {minutes:g}: give one of them; steps take as long as they take, "
            "minutes are planned into"
        )
    if distil and minutes is not None and minutes < MIN_DISTIL_MINUTES:
        raise QuickstartRequestError(
            f"--distil with --minutes {minutes:g}: at least {MIN_DISTIL_MINUTES:g}, or leave out --distil"
        )
    source, name = _parse_model(model, output.expanduser())
    for path in texts:
        _check_text(path)
    absolute = tuple(path.resolve() for path in texts)
    folder = output.expanduser().resolve()
    return Options(source, name, minutes, steps, absolute, _digest(absolute), folder, distil)


def _check_text(path: Path) -> None:
    if not path.is_file():
        raise QuickstartRequestError(f"--text {path}: there is no such file")
    if not path.name.endswith(SUFFIXES):
        raise QuickstartRequestError(f"--text {path}: a text is one of {', '.join(SUFFIXES)}")


def _parse_model(model: str, output: Path) -> tuple[ModelSource, str | None]:
    kind, _, name = model.partition(":")
    if kind == "packaged" and not name:
        return ModelSource.packaged, None
    if kind == "hub" and name:
        return ModelSource.hub, name
    if kind == "path" and name:
        folder = Path(name).expanduser().resolve()
        if not (folder / CONFIG_FILE).is_file():
            raise QuickstartRequestError(
                f"--model {model}: {folder} has no config.json; give a Hugging Face model folder"
            )
        check_apart(output, folder)
        diffusion = BlockDiffusion.from_settings(read_settings(folder, RequestError))
        check_autoregressive(diffusion, "wf quickstart", where=f"--model {model}")
        return ModelSource.path, str(folder)
    raise QuickstartRequestError(f"--model {model!r} is not packaged, hub:ID or path:FOLDER")


def _digest(texts: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in texts:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
