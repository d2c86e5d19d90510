"""Hydra reads and merges the same files and schemas at each composition: 0.2 s, a third of a small run.

Here choices of groups (`training=stage2_pretrain`) are composed once, and values (`seed=3`) are applied
to a copy, by Hydra's own code and in the order in which it does both. What is neither goes to Hydra as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from wrinklefree.compose import composing
from wrinklefree.compose.schemas import SHARED_CONFIGS

_SEARCH_PATH = "hydra.searchpath"
_GROUPS = {"training", *(folder.name for folder in SHARED_CONFIGS.iterdir())}
_composed: dict[tuple[Any, ...], DictConfig] = {}


@contextmanager
def composing_once() -> Iterator[None]:
    """Within it `composing.compose` keeps what it has composed, until another schema is stored."""
    store = ConfigStore.store

    def storing(self: ConfigStore, *args: Any, **options: Any) -> None:
        _composed.clear()
        store(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigStore, "store", storing)
        patch.setattr(composing, "compose", _compose)
        yield
    _composed.clear()


def _compose(name: str, overrides: list[str]) -> DictConfig:
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices, values = [], []
    for override in parsed:
        (values if _is_value(override) else choices).append(override)
    if not all(map(_is_choice, choices)):
        return compose(name, overrides=overrides)
    lines = [str(override.input_line) for override in choices]
    key = (name, str(GlobalHydra.instance().config_loader().get_search_path()), *lines)
    if key not in _composed:
        _composed[key] = compose(name, overrides=lines)
    config = copy.deepcopy(_composed[key])
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return config


def _is_value(override: Override) -> bool:
    """Of a key that can be no group."""
    is_group = override.key_or_group in _GROUPS or "/" in override.key_or_group
    return _is_plain(override) and not is_group and not override.is_hydra_override()


def _is_choice(override: Override) -> bool:
    if override.key_or_group == _SEARCH_PATH:
        return True
    return _is_plain(override) and override.key_or_group in _GROUPS and isinstance(override.value(), str)


def _is_plain(override: Override) -> bool:
    is_change = override.is_add() or override.is_force_add() or override.is_delete()
    return not is_change and override.package is None and not override.is_sweep_override()
