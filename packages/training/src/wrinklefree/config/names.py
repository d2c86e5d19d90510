"""Which names and folders a run may have."""

from __future__ import annotations

import unicodedata

from wf_formats.secrets import redacted
from wf_formats.urls import meant_url
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.root import TrainConfig

MAX_NAME_BYTES = 200
"""File systems take 255; names of moved runs and temporary folders are longer."""


def check_names(config: TrainConfig) -> None:
    """Raises: ConfigError for an experiment that is no name of one folder, or no output folder."""
    if reason := _unfit(config.experiment):
        raise ConfigError(
            f"experiment={redacted(repr(config.experiment))} {reason}: give a name for a folder below "
            "output_dir, such as experiment=first"
        )
    if not config.output_dir.strip() or "\0" in config.output_dir:
        raise ConfigError(
            f"output_dir={config.output_dir!r} is no folder: give one, such as output_dir=outputs"
        )
    if (url := meant_url(config.output_dir)) is not None:
        raise ConfigError(
            f"output_dir={redacted(url)} is a URL, and runs are on this machine: give a folder; "
            "training.checkpoint.upload=URL uploads what a run saves"
        )


def _unfit(name: str) -> str | None:
    """Why `name` is not one folder's."""
    if name != name.strip() or not name:
        return "is empty or begins or ends with a blank"
    if "/" in name:
        return "is a path"
    if name.startswith("."):
        return "begins with a dot"
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
        return "has control characters, or bytes that are not UTF-8"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"has more than {MAX_NAME_BYTES} bytes"
    return None
