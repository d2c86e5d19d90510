"""Runs lm-eval tasks on local data (task_files.py). No task touches a network.

Tasks of supervised records are run by themselves, since lm-eval puts all tasks of a run into a chat
template, or none. For each item what the model answered is kept (answers.py).
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wrinklefree_eval.answers import Answer, answers_of
from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.task_files import OUR_TASKS, check_tasks, write_located

BOOTSTRAP_ITERATIONS = 1000  # for standard errors without a formula (perplexity)


def run_tasks(
    harness: Any,
    names: Sequence[str],
    tasks_dir: Path = OUR_TASKS,
    data_dir: Path | None = None,
    limit: int | None = None,
) -> dict[str, dict[str, Any]]:
    """The scores of `ask_tasks`."""
    return ask_tasks(harness, names, tasks_dir, data_dir, limit)[0]


def ask_tasks(
    harness: Any,
    names: Sequence[str],
    tasks_dir: Path = OUR_TASKS,
    data_dir: Path | None = None,
    limit: int | None = None,
) -> tuple[dict[str, dict[str, Any]], list[Answer]]:
    """Scores by task, and what the model answered to each item.

    Scores are lm-eval's metrics, `<metric>_stderr` of each, `num_samples`, and for classification `majority`,
    what always the most frequent label would have.

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
    files = check_tasks(names, tasks_dir, data_dir)
    scores: dict[str, dict[str, Any]] = {}
    answers: list[Answer] = []
    with tempfile.TemporaryDirectory() as folder, _one_process():
        for name, file in files.items():
            write_located(Path(folder), name, file.path, data_dir)
        for in_chat in (False, True):
            asked = [name for name, file in files.items() if (file.record_format is not None) is in_chat]
            if asked:
                outcome = _outcome(harness, asked, Path(folder), in_chat, limit, data_dir)
                scores |= {name: _metrics(outcome, name) for name in asked}
                answers += [answer for name in asked for answer in answers_of(name, outcome["samples"][name])]
    for name, file in files.items():
        if file.record_format is not None:
            scores[name] |= _majority(answer for answer in answers if answer.task == name)
    return {name: scores[name] for name in names}, answers


def _outcome(
    harness: Any, names: list[str], folder: Path, in_chat: bool, limit: int | None, data_dir: Path | None
) -> dict[str, Any]:
    import lm_eval
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    try:
        outcome: dict[str, Any] = lm_eval.simple_evaluate(
            model=harness,
            tasks=names,
            task_manager=manager,
            limit=limit,
            bootstrap_iters=BOOTSTRAP_ITERATIONS,
            log_samples=True,
            apply_chat_template=in_chat,
        )
    except (DatasetsError, TemplateError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise EvalError(
            f"the data of {', '.join(names)} in {data_dir} cannot be read as the tasks say ({reason}); "
            "fetch them again, or mend the task file"
        ) from error
    return outcome


def _majority(answers: Iterator[Answer]) -> dict[str, float]:
    """The accuracy of always the most frequent answer; empty where answers are not chosen."""
    wanted = Counter(answer.wanted for answer in answers if answer.logprobs is not None)
    return {"majority": max(wanted.values()) / wanted.total()} if wanted else {}


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
