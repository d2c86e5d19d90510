"""`.wf.toml` at the top of the checkout: what a user's own accounts allow. git ignores it.

[sky]
# variables that jobs get, by name; their values are taken from the environment of `wf`
secrets = ["HF_TOKEN", "WANDB_API_KEY"]
# cores of GCP's n2-standard machines that the quota of a region allows, over all nodes of a job
gcp_cpus = 24
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wf_deployer.errors import CommandRequestError
from wf_formats.printable import printable

SETTINGS_FILE = ".wf.toml"
_VARIABLE = re.compile(r"(?!SKYPILOT_|WF_JOB_)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """Attributes: secrets are names of variables; gcp_cpus is None where nothing is said."""

    secrets: tuple[str, ...] = ()
    gcp_cpus: int | None = None


def read_settings(root: Path) -> Settings:
    """Those of a checkout. Raises: CommandRequestError naming file, value and fix."""
    path = root / SETTINGS_FILE
    if not path.exists():
        return Settings()
    if not path.is_file():  # a pipe would be waited for
        raise CommandRequestError(f"{path} is no regular file; write one, or remove it")
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandRequestError(f"{path} is no TOML: {error}") from error
    table = values.get("sky", {})
    if values.keys() - {"sky"} or not isinstance(table, dict):
        other = _first(values.keys() - {"sky"})
        raise CommandRequestError(f"{path} has one table, [sky], and {other} is something else; correct it")
    known = [field.name for field in fields(Settings)]
    if unknown := table.keys() - set(known):
        raise CommandRequestError(f"{path}: {_first(unknown)} is unknown; [sky] has {', '.join(known)}")
    return Settings(_secrets(table.get("secrets", []), path), _cpus(table.get("gcp_cpus"), path))


def _first(names: Any) -> str:
    return repr(printable(min(names, default="sky")))


def _secrets(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise CommandRequestError(f'{path}: secrets = {value!r:.60}: write a list of names, ["HF_TOKEN"]')
    for name in value:
        if not (isinstance(name, str) and _VARIABLE.fullmatch(name)):
            raise CommandRequestError(
                f"{path}: secrets: {name!r:.60} is no variable of yours; correct the name"
            )
    return tuple(dict.fromkeys(value))


def _cpus(value: Any, path: Path) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise CommandRequestError(f"{path}: gcp_cpus = {value!r:.60}: write a number of cores, such as 24")
    return value
