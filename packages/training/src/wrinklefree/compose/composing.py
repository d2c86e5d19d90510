"""From files and command-line overrides to one typed `TrainConfig`.

Hydra's compose API is used rather than `@hydra.main`: the process keeps its working directory and
its arguments (Lightning starts the other ranks with the same command line), and an unknown key can
be answered with the nearest known one.

Objectives and the teacher are typed by their registries after Hydra has composed the rest, so their
overrides are kept apart until then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_handler.errors import DataError
from wrinklefree.compose.literal import literal
from wrinklefree.compose.recipes import recipe_override
from wrinklefree.compose.refusals import explain, refuse_unused_keys, unknown_key, unreadable
from wrinklefree.compose.roots import TRAIN, Root
from wrinklefree.compose.schemas import (
    OBJECTIVES_KEY,
    SHARED_CONFIGS,
    TEACHER_KEY,
    keys_of,
    register_schemas,
)
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.model import TeacherConfig
from wrinklefree.config.names import check_names
from wrinklefree.config.ranges import check_ranges
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import ContinuingConfig
from wrinklefree.objectives.registry import objective_schema
from wrinklefree.plugins import UnknownNameError
from wrinklefree.stages.registry import check_accepted, stage_by_name, stage_of, wrong_stage
from wrinklefree.teachers.registry import check_teacher, teacher_schema

_TYPED_LATER = (OBJECTIVES_KEY, TEACHER_KEY)


def compose_config(overrides: Sequence[str] = (), root: Root = TRAIN) -> TrainConfig:
    """The one place where configuration becomes plain typed objects.

    Args: overrides in Hydra's syntax, such as `model=qwen3_0_6b` or `training.max_steps=10`; root is the
        configuration of the application.
    Raises: ConfigError (unknown key or option, wrong type, missing value, contradicting values).
    """
    try:
        config = OmegaConf.to_object(compose_dictconfig(overrides, root))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, root)) from error
    except DataError as error:
        raise ConfigError(f"data.sources: {error}") from error
    assert isinstance(config, TrainConfig)
    config = root.trained(config)
    config.model.resolve()
    stage = stage_of(config)
    check_names(config)
    check_ranges(config)
    if isinstance(config.training, ContinuingConfig):
        _check_start(config.training)
    stage.check(config)
    check_teacher(config)
    return config


def compose_dictconfig(overrides: Sequence[str], root: Root = TRAIN) -> DictConfig:
    """Compose and check; raises ConfigError with the offending key."""
    register_schemas(root)
    folders = [TRAIN.folder, SHARED_CONFIGS] if root is not TRAIN else [SHARED_CONFIGS]
    search = f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"
    parsed = [_parsed(text) for text in literal(overrides, root)]
    try:
        if recipe := recipe_override(parsed):
            parsed.insert(0, _parsed(recipe))
        later = [o for o in parsed if _is_typed_later(o) and not o.is_delete()]
        plain = [str(o.input_line) for o in parsed if o not in later]
        with initialize_config_dir(str(root.folder), version_base="1.3"):
            config = compose(root.name, overrides=[search, *plain])
        _check_stage_name(config)
        refuse_unused_keys(stage_by_name(config.training.stage), parsed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, root, parsed)) from error
    OmegaConf.set_struct(config, False)
    _type_objectives(config, _values(later, OBJECTIVES_KEY))
    _type_teacher(config, _values(later, TEACHER_KEY))
    _refuse_foreign_keys(config)
    return config


def _parsed(text: str) -> Override:
    """Raises: ConfigError for what is no override, with numbers and nesting that no parser takes."""
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, ValueError, RecursionError) as error:
        raise ConfigError(unreadable(text)) from error


def _check_stage_name(config: DictConfig) -> None:
    """Raises: ConfigError for a training.stage that is not the one of the chosen option."""
    given, chosen = config.training.stage, OmegaConf.get_type(config.training)
    if stage_by_name(given).config is not chosen:
        raise ConfigError(wrong_stage(given))


def _is_typed_later(override: Override) -> bool:
    key = override.key_or_group
    return any(key == typed or key.startswith(f"{typed}.") for typed in _TYPED_LATER)


def _values(overrides: Sequence[Override], key: str) -> list[dict[str, Any]]:
    """The overrides of `key` and below it as nested values.

    Raises: ConfigError for one that gives `key` something else than options.
    """
    found = []
    for override in overrides:
        if override.key_or_group == key:
            found.append(_options(key, override.value()))
        elif override.key_or_group.startswith(f"{key}."):
            found.append(_nested(override.key_or_group.removeprefix(f"{key}."), override.value()))
    return found


def _options(where: str, value: Any) -> Any:
    """`value`, which is a mapping. Raises: ConfigError that names the key and the way to write it."""
    if not isinstance(value, Mapping | DictConfig):
        shown = "null" if value is None else value
        raise ConfigError(
            f"{where}={shown} must be options by name, such as {where}.KEY=VALUE or {where}={{KEY:VALUE}}; "
            "leave it out for the defaults"
        )
    return value


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _type_objectives(config: DictConfig, overrides: Sequence[dict[str, Any]]) -> None:
    """Check each objective's options against its schema.

    Raises: ConfigError naming the objective and the key.
    """
    training, schema = config.training, stage_by_name(config.training.stage).config
    if "objectives" not in keys_of(schema):
        if overrides:
            raise ConfigError(unknown_key(OBJECTIVES_KEY, "objectives", schema))
        return
    layers: dict[str, list[Any]] = {}
    for layer in (_options(OBJECTIVES_KEY, training.objectives), *overrides):
        for name, value in layer.items():
            options = _options(f"{OBJECTIVES_KEY}.{name}", value)
            layers.setdefault(str(name), []).append(options)
    try:
        training.objectives = {
            name: _typed(f"{OBJECTIVES_KEY}.{name}", objective_schema(name), values)
            for name, values in layers.items()
        }
    except UnknownNameError as error:
        raise ConfigError(f"{OBJECTIVES_KEY}: {error}") from error


def _type_teacher(config: DictConfig, overrides: Sequence[dict[str, Any]]) -> None:
    """The same for the teacher, whose `kind` says which schema it has."""
    layers = [_options(TEACHER_KEY, config.model.teacher), *overrides]
    kind: Any = TeacherConfig.kind
    for layer in layers:
        kind = layer.get("kind", kind)
    try:
        schema = teacher_schema(str(kind))
    except UnknownNameError as error:
        raise ConfigError(f"{TEACHER_KEY}.kind: {error}") from error
    config.model.teacher = _typed(TEACHER_KEY, schema, layers)


def _typed(where: str, schema: type, layers: Sequence[Any]) -> Any:
    try:
        return OmegaConf.merge(OmegaConf.structured(schema), *layers)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {explain(error)}") from error


def _refuse_foreign_keys(node: Any, where: str = "") -> None:
    """`+key=value` slips past Hydra's check of typed nodes; this does not let it."""
    if isinstance(node, ListConfig) and not node._is_missing():
        for index, child in enumerate(node):
            _refuse_foreign_keys(child, f"{where}[{index}]")
    if not isinstance(node, DictConfig) or node._is_missing() or node._is_none():
        return
    owner = OmegaConf.get_type(node)
    known = keys_of(owner) if dataclasses.is_dataclass(owner) else None
    for key in map(str, node):
        full = f"{where}.{key}".lstrip(".")
        if known is not None and key not in known:
            raise ConfigError(unknown_key(full, key, owner))
        if not OmegaConf.is_missing(node, key):
            _refuse_foreign_keys(node._get_node(key), full)


def _check_start(training: ContinuingConfig) -> None:
    """Raises: ConfigError when the stage has nothing to go on from, or an unknown stage."""
    check_accepted(training.accept_from)
    if not training.accept_from and training.start_from is None:
        raise ConfigError(
            f"training.accept_from is empty: {training.stage} goes on from another stage; name some, "
            "or a checkpoint folder with training.start_from=FOLDER"
        )
