"""What tasks need on another machine: task files with the Python beside them, and the data that they name.

Both go below the folders that they are given in. What a task names outside of those would stay here, and is
refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wrinklefree_eval.errors import EvalRequestError
from wrinklefree_eval.task_files import check_names, read_task

_SUFFIXES = (".yaml", ".yml", ".py")


def task_files(tasks_dir: Path) -> list[str]:
    """Paths below a folder of tasks; what is hidden is none of them."""
    found = (
        path.relative_to(tasks_dir)
        for path in tasks_dir.rglob("*")
        if path.suffix in _SUFFIXES and path.is_file()
    )
    return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))


def data_files(names: Sequence[str], tasks_dir: Path) -> list[str]:
    """Paths below the folder of data. Raises: EvalRequestError for a file that would stay here."""
    found: list[str] = []
    for name, path in check_names(names, tasks_dir).items():
        configs = list(_with_includes(path, tasks_dir))
        _refuse_local_source(name, str(_first(configs, "dataset_path") or ""))
        found += _data_of(name, _first(configs, "dataset_kwargs"), is_own="dataset_kwargs" in configs[0])
    return list(dict.fromkeys(found))


def _with_includes(path: Path, tasks_dir: Path) -> Iterator[dict[str, Any]]:
    """The keys of a task file, and of those that it includes, in the order in which lm-eval prefers them."""
    left, seen = [path.resolve()], set[Path]()
    while left:
        file = left.pop().resolve()
        if not file.is_relative_to(tasks_dir.resolve()):
            raise EvalRequestError(f"{path} includes {file}, which stays here: put it into {tasks_dir}")
        if file not in seen:
            seen.add(file)
            config = read_task(file)
            yield config
            includes = config.get("include") or []
            left += [
                file.parent / str(one) for one in (includes if isinstance(includes, list) else [includes])
            ]


def _first(configs: Sequence[dict[str, Any]], key: str) -> Any:
    return next((config[key] for config in configs if key in config), None)


def _refuse_local_source(task: str, source: str) -> None:
    """`dataset_path` is the name of a reader (json), or of a set on the hub."""
    if source.startswith(("/", "~", ".")) or ("/" in source and Path(source).exists()):
        raise EvalRequestError(
            f"task {task} reads {source}, which stays here: use `dataset_path: json` and data_files"
        )


def _data_of(task: str, options: Any, is_own: bool) -> list[str]:
    files = options.get("data_files") if isinstance(options, dict) else None
    if not files:
        return []
    if not isinstance(files, dict) or not is_own:
        raise EvalRequestError(
            f"task {task} reads {files!r:.80}, which stays here: its own file has to name data by split "
            "(data_files: {test: FILE})"
        )
    for file in map(str, files.values()):
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise EvalRequestError(f"task {task} reads {file}, which stays here: give a path in --data-dir")
    return [str(file) for file in files.values()]
