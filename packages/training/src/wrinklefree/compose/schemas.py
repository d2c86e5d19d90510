"""Every schema there is: what Hydra is told, and what errors can say is known."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

from hydra.core.config_store import ConfigStore

from wrinklefree.compose.roots import TRAIN, Root
from wrinklefree.config.optimizer import AdamW8bitConfig, AdamWConfig, MuonConfig
from wrinklefree.objectives.registry import objective_schemas
from wrinklefree.stages.registry import stages
from wrinklefree.teachers.registry import teacher_schemas

SHARED_CONFIGS = Path(__file__).parents[5] / "configs"
OBJECTIVES_KEY = "training.objectives"
TEACHER_KEY = "model.teacher"
_OPTIMIZERS = {"adamw": AdamWConfig, "adamw_8bit": AdamW8bitConfig, "muon": MuonConfig}


_stored: dict[tuple[str | None, str], type] = {}


def register_schemas(root: Root = TRAIN) -> None:
    """Name the schemas for the defaults lists; each stage's is an option of `training` as it is."""
    _store(None, f"{root.name}_schema", root.schema)
    for name, schema in _OPTIMIZERS.items():
        _store("optimizer", f"{name}_schema", schema)
    for stage in stages():
        _store("training", stage.option, stage.config)


def _store(group: str | None, name: str, schema: type) -> None:
    """Once: storing takes a quarter of the time of composing."""
    if _stored.get((group, name)) is not schema:
        ConfigStore.instance().store(group=group, name=name, node=schema)
        _stored[group, name] = schema


def group_options(group: str) -> list[str]:
    """What can be chosen of a config group, such as `model`: its YAML files; of `training` the stages."""
    return sorted({*group_files(group), *(stage.option for stage in stages() if group == "training")})


def group_files(group: str) -> dict[str, Path]:
    """The YAML files of a config group, by option."""
    folders = [root / group for root in (TRAIN.folder, SHARED_CONFIGS)]
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml")}


def schema_classes(root: Root = TRAIN) -> dict[str, type]:
    """All schemas by class name, with those of their fields."""
    found: dict[str, type] = {}
    todo: list[type] = [root.schema, *_OPTIMIZERS.values(), *(stage.config for stage in stages())]
    todo += [*objective_schemas(), *teacher_schemas()]
    while todo:
        schema = todo.pop()
        if schema.__name__ not in found:
            found[schema.__name__] = schema
            for hint in typing.get_type_hints(schema).values():
                kinds = (hint, *typing.get_args(hint))
                todo += [k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k)]
    return found


def deriving_from(schema: type) -> list[type]:
    """The schemas that can stand where `schema` is wanted: an optimizer's, a stage's, or itself."""
    options: list[type] = [*_OPTIMIZERS.values(), *(stage.config for stage in stages())]
    return [option for option in options if issubclass(option, schema)] or [schema]


def keys_of(schema: type) -> set[str]:
    return {field.name for field in dataclasses.fields(schema)}
