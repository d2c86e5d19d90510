"""From files and command-line overrides to one typed `TrainConfig`.

Hydra's compose API is used rather than `@hydra.main`: the process keeps its working directory and
its arguments (Lightning starts the other ranks with the same command line), and an unknown key can
be answered with the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wrinklefree.config import schema
from wrinklefree.config.lengths import run_lengths, schedule_phases
from wrinklefree.objectives.registry import config_class

APP_CONFIGS = Path(__file__).parents[3] / "configs"
SHARED_CONFIGS = Path(__file__).parents[5] / "configs"
OBJECTIVES_KEY = "training.objectives"
_KEY_ERROR = re.compile(r"[Kk]ey '(?P<key>[^']+)' (?:is )?not in '(?P<owner>\w+)'")
_GROUP_ERROR = re.compile(r"Could not find '(?P<path>[^']+)'")


class ConfigError(ValueError):
    """The configuration names something that does not exist or does not fit."""


def register_schemas() -> None:
    store = ConfigStore.instance()
    store.store(name="train_schema", node=schema.TrainConfig)
    for name, node in {
        "adamw": schema.AdamWConfig,
        "adamw_8bit": schema.AdamW8bitConfig,
        "muon": schema.MuonConfig,
    }.items():
        store.store(group="optimizer", name=f"{name}_schema", node=node)


def _known_keys() -> set[str]:
    classes = [c for c in vars(schema).values() if dataclasses.is_dataclass(c)]
    return {f.name for c in classes for f in dataclasses.fields(c)}


def _suggest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def _unknown_key(full: str, key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    return f"Unknown key '{full}'.{_suggest(key, names)} Known here: {', '.join(names)}."


def _explain(error: Exception) -> str:
    """The whole chain of messages, plus the nearest known key or group option."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None:
        chain.append(str(current).strip())
        current = current.__cause__
    text = "\n".join(dict.fromkeys(chain))
    if match := _KEY_ERROR.search(text):
        owner = getattr(schema, match["owner"], None)
        known = {f.name for f in dataclasses.fields(owner)} if owner else _known_keys()
        text += "\n" + _unknown_key(match["key"], match["key"], known)
    elif match := _GROUP_ERROR.search(text):
        group, _, option = match["path"].rpartition("/")
        text += _suggest(option, group_options(group))
    return text


def group_options(group: str) -> list[str]:
    """Names of the YAML files of a config group, such as `model`."""
    return sorted(p.stem for root in (APP_CONFIGS, SHARED_CONFIGS) for p in (root / group).glob("*.yaml"))


def _split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Hydra's overrides, and those of single objectives, which need the registry's schemas."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    prefix = f"{OBJECTIVES_KEY}."
    own = [o for o in parsed if o.key_or_group.startswith(prefix) and not o.is_delete()]
    rest = [str(o.input_line) for o in parsed if o not in own]
    return rest, own


def _typed_objectives(objectives: DictConfig, overrides: Sequence[Override]) -> dict[str, Any]:
    """Each objective's options, checked against the schema that its registry entry names."""
    options: dict[str, Any] = {str(name): [value] for name, value in objectives.items()}
    for override in overrides:
        name, _, key = override.key_or_group.removeprefix(f"{OBJECTIVES_KEY}.").partition(".")
        value = override.value()
        options.setdefault(name, []).append({key: value} if key else value)
    typed = {}
    for name, layers in options.items():
        try:
            typed[name] = OmegaConf.merge(OmegaConf.structured(config_class(name)), *layers)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{OBJECTIVES_KEY}.{name}: {_explain(error)}") from error
        except KeyError as error:
            raise ConfigError(f"{OBJECTIVES_KEY}: {error.args[0]}") from error
    return typed


def _refuse_foreign_keys(node: Any, where: str = "") -> None:
    """`+key=value` slips past Hydra's check of typed nodes; this does not let it."""
    if isinstance(node, ListConfig) and not node._is_missing():
        for index, child in enumerate(node):
            _refuse_foreign_keys(child, f"{where}[{index}]")
    if not isinstance(node, DictConfig) or node._is_missing() or node._is_none():
        return
    owner = OmegaConf.get_type(node)
    known = {f.name for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else None
    for key in map(str, node):
        full = f"{where}.{key}".lstrip(".")
        if known is not None and key not in known:
            raise ConfigError(_unknown_key(full, key, known))
        if not OmegaConf.is_missing(node, key):
            _refuse_foreign_keys(node._get_node(key), full)


def compose_dictconfig(overrides: Sequence[str]) -> DictConfig:
    """Compose and check; raises ConfigError with the offending key."""
    register_schemas()
    search = f"hydra.searchpath=[file://{SHARED_CONFIGS}]"
    try:
        plain, objective_overrides = _split_overrides(overrides)
        with initialize_config_dir(str(APP_CONFIGS), version_base="1.3"):
            config = compose("train", overrides=[search, *plain])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error
    typed = _typed_objectives(config.training.objectives, objective_overrides)
    OmegaConf.set_struct(config, False)
    config.training.objectives = typed
    _refuse_foreign_keys(config)
    return config


def compose_config(overrides: Sequence[str] = ()) -> schema.TrainConfig:
    """The one place where configuration becomes plain typed objects.

    Args: overrides in Hydra's syntax, such as `model=qwen3_0_6b` or `training.max_steps=10`.
    Raises: ConfigError (unknown key or option, wrong type, missing value, contradicting values).
    """
    try:
        config = OmegaConf.to_object(compose_dictconfig(overrides))
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error
    assert isinstance(config, schema.TrainConfig)
    _check(config)
    return config


def _check(config: schema.TrainConfig) -> None:
    training = config.training
    if training.stage is schema.Stage.stage1:
        return
    if training.stage is schema.Stage.stage1_5:
        _check_ternarize(training.ternarize)
        return
    where = config.distributed
    if where.kind is schema.DistributedKind.single and where.devices * where.num_nodes != 1:
        raise ConfigError("several devices with distributed=single: choose distributed=ddp or fsdp")
    if (training.max_steps is None) == (training.max_tokens is None):
        raise ConfigError("set exactly one of training.max_steps and training.max_tokens")
    if not any(options.weight > 0 for options in training.objectives.values()):
        raise ConfigError("no objective in training.objectives has a weight above 0")
    if not config.data.sources:
        raise ConfigError("data.sources is empty: choose data=..., or list sources")
    if training.checkpoint.keep_last < 1:
        raise ConfigError("training.checkpoint.keep_last must be at least 1")
    try:
        schedule_phases(training.schedule, run_lengths(config))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_ternarize(options: schema.TernarizeConfig) -> None:
    length = options.sequence_length_tokens
    smallest = {
        "sequence_length_tokens": 2,
        "tokens": max(schema.MIN_TERNARIZE_TOKENS, length * options.refine_batch_size),
        "moment_tokens": length,
        "refine_batch_size": 1,
        "distil_batch_size": 1,
        "logit_tokens": 1,
        "save_every_steps": 1,
        "refine_steps": 0,
        "distil_steps": 0,
        "num_sweeps": 0,
        "evaluation_tokens": 0,
    }
    for key, least in smallest.items():
        if (value := getattr(options, key)) < least:
            raise ConfigError(f"training.ternarize.{key}={value} is too small: at least {least}")
    for key in ("latent_rate", "scale_rate", "vector_rate", "damping"):
        value = getattr(options, key)
        if not math.isfinite(value) or value <= 0:
            raise ConfigError(f"training.ternarize.{key}={value} must be a finite number above 0")
