"""What is said of a key or an option that does not exist: its name, the nearest one, and all known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from hydra.core.override_parser.types import Override

from wrinklefree.compose.schemas import group_options, keys_of, schema_classes
from wrinklefree.config.errors import ConfigError
from wrinklefree.stages.base import Stage
from wrinklefree.stages.registry import stages

_KEY_ERROR = re.compile(r"[Kk]ey '(?P<key>[^']+)' (?:is )?not in '(?P<owner>\w+)'")
_GROUP_ERROR = re.compile(r"Could not find '(?P<path>[^']+)'")


def unknown_key(full: str, key: str, owner: type | None) -> str:
    """Args: owner is the schema that lacks `key`; None: it is not known which."""
    schemas = schema_classes().values() if owner is None else [owner]
    names = sorted({name for schema in schemas for name in keys_of(schema)})
    unused = _stage_without(key, owner)
    hint = f" ({unused} does not use it)." if unused else f".{_suggestion(key, names)}"
    return f"Unknown key '{full}'{hint} Known here: {', '.join(names)}."


def _stage_without(key: str, owner: type | None) -> str | None:
    """The name of the stage whose schema `owner` is, if another stage knows the key."""
    here = [stage.name for stage in stages() if stage.config is owner]
    elsewhere = any(key in keys_of(stage.config) for stage in stages())
    return here[0] if here and elsewhere else None


def refuse_unused_keys(stage: Stage, overrides: Sequence[Override]) -> None:
    """Raises: ConfigError for an override of a key or group that the stage does not use."""
    for override in overrides:
        path = re.split(r"[.@/]", override.key_or_group)
        for unused in stage.unused_keys:
            names = unused.split(".")
            if path[: len(names)] == names:
                raise ConfigError(
                    f"'{override.key_or_group}': {stage.name} does not use '{unused}'. Leave it out: it "
                    "is for other stages."
                )


def explain(error: Exception) -> str:
    """The whole chain of messages, plus the nearest known key or group option."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None:
        chain.append(str(current).strip())
        current = current.__cause__
    text = "\n".join(dict.fromkeys(chain))
    if match := _KEY_ERROR.search(text):
        text += "\n" + unknown_key(match["key"], match["key"], schema_classes().get(match["owner"]))
    elif match := _GROUP_ERROR.search(text):
        group, _, option = match["path"].rpartition("/")
        text += _suggestion(option, group_options(group))
    return text


def _suggestion(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
