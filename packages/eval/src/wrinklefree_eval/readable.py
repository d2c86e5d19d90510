"""What of a request can be read, found out without loading a model."""

from __future__ import annotations

from pathlib import Path

from wrinklefree_eval.models import recognise


def check_reading(
    models: list[Path], texts: list[Path], tasks: list[str], tasks_dir: Path, data_dir: Path | None
) -> None:
    """Raises: UserError for a model that is none, a text, a task or its data that cannot be read."""
    from data_handler.readers import check_document_file

    for model in models:
        recognise(model)
    for path in texts:
        check_document_file(path)
    if tasks:
        from wrinklefree_eval.task_files import check_tasks

        check_tasks(tasks, tasks_dir, data_dir)
