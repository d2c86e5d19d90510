"""lm-eval tasks on local data.

A task is a YAML file of lm-eval in a tasks folder (ours: `tasks/`, named and scored as lm-eval's own).
Where its `data_files` are relative, they lie in the data folder. No task touches a network.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from wrinklefree_eval.errors import EvalError, EvalRequestError

OUR_TASKS = Path(__file__).parent / "tasks"
BOOTSTRAP_ITERATIONS = 1000  # for standard errors without a formula (perplexity)


def run_tasks(
    harness: Any,
    names: Sequence[str],
    tasks_dir: Path = OUR_TASKS,
    data_dir: Path | None = None,
    limit: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores by task: lm-eval's metrics, `<metric>_stderr` of each, and `num_samples`.

    Args:
        harness: An lm-eval `LM`.
        names: Tasks of `tasks_dir`.
        tasks_dir: Folder of lm-eval YAML files.
        data_dir: Folder of the tasks' data.
        limit: Only the first samples of each task; None takes all.

    Raises:
        EvalRequestError: Unknown task, or data that is missing.
        EvalError: A task file or its data is damaged.
    """
    import lm_eval
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError
    from lm_eval.tasks import TaskManager

    sources = check_tasks(names, tasks_dir, data_dir)
    with tempfile.TemporaryDirectory() as folder, _one_process():
        for name, source in sources.items():
            _write_located(Path(folder), name, source, data_dir)
        manager = TaskManager(include_path=folder, include_defaults=False)
        try:
            outcome: dict[str, Any] = lm_eval.simple_evaluate(
                model=harness,
                tasks=list(names),
                task_manager=manager,
                limit=limit,
                bootstrap_iters=BOOTSTRAP_ITERATIONS,
                log_samples=False,
            )
        except (DatasetsError, TemplateError) as error:
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise EvalError(
                f"the data of {', '.join(names)} in {data_dir} cannot be read as the tasks say ({reason}); "
                "fetch them again, or mend the task file"
            ) from error
    return {name: _metrics(outcome, name) for name in names}


def check_tasks(names: Sequence[str], tasks_dir: Path, data_dir: Path | None) -> dict[str, Path]:
    """The task files by name; finds what is missing before a model is loaded.

    Raises:
        EvalRequestError: Unknown task, or data that is missing.
        EvalError, DataError: A task file or its data is damaged.
    """
    from lm_eval.tasks import TaskManager

    if not tasks_dir.is_dir():
        raise EvalRequestError(f"there is no tasks folder {tasks_dir}")
    index = TaskManager(include_path=str(tasks_dir), include_defaults=False).task_index
    for name in names:
        if name not in index:
            raise EvalRequestError(
                f"{tasks_dir} has no task {name!r} (it has: {', '.join(sorted(index)) or 'none'})"
            )
    sources = {name: Path(str(index[name].yaml_path)) for name in names}
    for name, source in sources.items():
        _located_files(name, _read_task(source), data_dir)
    return sources


class _Loader(yaml.SafeLoader):
    """Reads task files, whose `!function` tags mean nothing here."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _read_task(source: Path) -> dict[str, Any]:
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


def _write_located(folder: Path, name: str, source: Path, data_dir: Path | None) -> None:
    """A task file in `folder` that includes `source` with its data files made absolute."""
    located: dict[str, Any] = {"include": str(source.resolve()), "task": name}
    if options := _located_files(name, _read_task(source), data_dir):
        located["dataset_kwargs"] = options
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(located))


def _located(file: str, name: str, data_dir: Path | None) -> str:
    if not Path(file).is_absolute() and data_dir is None:
        raise EvalRequestError(f"task {name} reads {file}: say where that lies with --data-dir")
    path = (data_dir or Path()) / file
    if not path.is_file():
        raise EvalRequestError(f"task {name} reads {path}, which is missing (--data-dir)")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        from data_handler.readers import check_json_lines  # not for --help

        check_json_lines(path)
    return str(path.resolve())


@contextmanager
def _one_process() -> Iterator[None]:
    """Keep lm-eval's bootstrap from forking a process that runs llama.cpp and torch threads."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _metrics(outcome: dict[str, Any], name: str) -> dict[str, Any]:
    """`acc`, `acc_stderr`, ... of a task; lm-eval adds the filter's name ("acc,none")."""
    values = {}
    for key, value in outcome["results"][name].items():
        metric, _, filter_name = key.partition(",")
        if isinstance(value, float):
            values[metric if filter_name in ("", "none") else key] = value
    return values | {"num_samples": outcome["n-samples"][name]["effective"]}
