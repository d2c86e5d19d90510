"""Files of lm-eval tasks, and the local data that they name.

A task is a YAML file of lm-eval in a tasks folder (ours: `tasks/`). Where its `data_files` are relative, they
lie in the data folder. `metadata.record_format` names a format of data_handler: the task is asked in the
model's chat template, as training on such records asks it, and its records are checked before a model is
loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from wrinklefree_eval.errors import EvalError, EvalRequestError

OUR_TASKS = Path(__file__).parent / "tasks"


class TaskFile(NamedTuple):
    """
    Attributes:
        record_format: of data_handler; None: a task like lm-eval's own, asked as plain text.
    """

    path: Path
    record_format: str | None


def check_tasks(names: Sequence[str], tasks_dir: Path, data_dir: Path | None) -> dict[str, TaskFile]:
    """The task files by name; finds what is missing before a model is loaded.

    Raises:
        EvalRequestError: Unknown task, or data that is missing.
        EvalError, DataError: A task file or its data is damaged.
    """
    found = {}
    for name, path in check_names(names, tasks_dir).items():
        config = read_task(path)
        found[name] = TaskFile(path, _record_format(path, config))
        for file in _located_files(name, config, data_dir).get("data_files", {}).values():
            _check_data(Path(file), found[name].record_format)
    return found


def check_names(names: Sequence[str], tasks_dir: Path) -> dict[str, Path]:
    """The tasks' files by name. Raises: EvalRequestError for an unknown task, or no such folder."""
    from lm_eval.tasks import TaskManager

    if not tasks_dir.is_dir():
        raise EvalRequestError(f"there is no tasks folder {tasks_dir}")
    index = TaskManager(include_path=str(tasks_dir), include_defaults=False).task_index
    for name in names:
        if name not in index:
            raise EvalRequestError(
                f"{tasks_dir} has no task {name!r} (it has: {', '.join(sorted(index)) or 'none'})"
            )
    return {name: Path(str(index[name].yaml_path)) for name in names}


def _record_format(path: Path, config: dict[str, Any]) -> str | None:
    from data_handler.formats import FORMATS

    metadata = config.get("metadata")
    name = metadata.get("record_format") if isinstance(metadata, dict) else None
    if name is not None and name not in FORMATS:
        raise EvalError(f"{path}: record_format is {name!r}, not one of {list(FORMATS)}")
    return name


def _check_data(path: Path, record_format: str | None) -> None:
    """Raises: DataError naming the line that is damaged or not of the format."""
    from data_handler.formats import FORMATS
    from data_handler.readers import check_json_lines, check_records

    if record_format is not None:
        check_records(path, FORMATS[record_format])
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        check_json_lines(path)


class _Loader(yaml.SafeLoader):
    """Reads task files, whose `!function` tags mean nothing here."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def read_task(source: Path) -> dict[str, Any]:
    """The keys of one file, without those that it includes. Raises: EvalError for what is no task file."""
    try:
        config = yaml.load(source.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvalError(f"{source} is no task file: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(config, dict):
        raise EvalError(f"{source} is no task file: it holds {type(config).__name__}, not keys and values")
    return config


def _located_files(name: str, config: dict[str, Any], data_dir: Path | None) -> dict[str, Any]:
    """`dataset_kwargs` with data files made absolute; empty where the task names none."""
    options = config.get("dataset_kwargs") or {}
    if not isinstance(files := options.get("data_files"), dict):
        return {}
    return options | {"data_files": {split: _located(str(f), name, data_dir) for split, f in files.items()}}


def write_located(folder: Path, name: str, source: Path, data_dir: Path | None) -> None:
    """A task file in `folder` that includes `source` with its data files made absolute."""
    located: dict[str, Any] = {"include": str(source.resolve()), "task": name}
    if options := _located_files(name, read_task(source), data_dir):
        located["dataset_kwargs"] = options
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(located))


def _located(file: str, name: str, data_dir: Path | None) -> str:
    if not Path(file).is_absolute() and data_dir is None:
        raise EvalRequestError(f"task {name} reads {file}: say where that lies with --data-dir")
    path = (data_dir or Path()) / file
    if not path.is_file():
        raise EvalRequestError(f"task {name} reads {path}, which is missing (--data-dir)")
    return str(path.resolve())
