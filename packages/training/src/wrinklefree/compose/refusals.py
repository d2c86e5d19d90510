"""What is said of a key or an option that does not exist: its name, the nearest one, and all known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from hydra.core.override_parser.types import Override

from wf_formats.secrets import redacted, redacted_arguments
from wrinklefree.compose.recipes import set_by_recipe
from wrinklefree.compose.roots import TRAIN, Root
from wrinklefree.compose.schemas import group_options, keys_of, schema_classes
from wrinklefree.config.errors import ConfigError
from wrinklefree.stages.base import Stage
from wrinklefree.stages.registry import stages

_KEY_ERROR = re.compile(r"[Kk]ey '(?P<key>[^']+)' (?:is )?not in '(?P<owner>\w+)'")
_FULL_KEY = re.compile(r"Could not override '(?P<override>[^']+)'|full_key: (?P<key>\S+)")
_GROUP_ERROR = re.compile(r"Could not find '(?P<path>[^']+)'")
_MERGE_ERROR = re.compile(r"Error merging override (?P<override>.+)")
_SHOWN_CHARACTERS = 200
_NOISE = re.compile(
    r"\s*(To append to your config |full_key: |reference_type=|object_type=|See https?://|provider=|"
    r"Config search path:|Available options in|3\. To sweep over it|Set the environment variable HYDRA).*"
)
"""Lines of Hydra and OmegaConf that speak of their insides, or advise what is refused here."""


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


def explain(error: Exception, root: Root = TRAIN, overrides: Sequence[Override] = ()) -> str:
    """What is wrong, with the nearest known key or group option, without secrets and Hydra's insides.

    Args: overrides are those that were composed.
    """
    text = _chain(error)
    if match := _KEY_ERROR.search(text):
        full = _full_key(text, match["key"])
        unknown = unknown_key(full, match["key"], schema_classes(root).get(match["owner"]))
        return redacted(unknown + set_by_recipe(overrides, full))
    if match := _GROUP_ERROR.search(text):
        return redacted(_unknown_option(match["path"]))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.fullmatch(line)]
    return "\n".join(_without_secrets(line) for line in dict.fromkeys(lines))


def _chain(error: BaseException) -> str:
    """The messages of an error and of what caused it."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None:
        chain.append(str(current).strip())
        current = current.__cause__
    return "\n".join(dict.fromkeys(chain))


def _full_key(text: str, key: str) -> str:
    """The longest name that the messages have for a key."""
    found = [match["override"] or match["key"] for match in _FULL_KEY.finditer(text)]
    return max((name for name in found if name.endswith(key)), key=len, default=key)


def _unknown_option(path: str) -> str:
    group, _, option = path.rpartition("/")
    known = group_options(group)
    return f"Could not find '{path}'.{_suggestion(option, known)} Known: {', '.join(known)}."


def unreadable(override: str) -> str:
    """What is said of an override that is none; a long one is cut."""
    (shown,) = redacted_arguments([override])
    shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."
    return (
        f"{shown}: cannot be read as KEY=VALUE. Put text with commas, brackets, quotes or other signs in "
        "quotes for the configuration as well as for the shell: \"KEY='VALUE'\""
    )


def _without_secrets(line: str) -> str:
    match = _MERGE_ERROR.fullmatch(line)
    return redacted_arguments([match["override"]])[0] + ":" if match else redacted(line)


def _suggestion(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
