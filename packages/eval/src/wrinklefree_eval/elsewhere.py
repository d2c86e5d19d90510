"""What an evaluation is on another machine: its command there, and what of this machine has to go with it.

`wf eval --cloud` asks for it (`--describe`). What is wrong with the request is found here, as without
`--cloud`; a model or text in a store or on the hub is left to the other machine, which fetches it. Results go
to the folder that the command runs in: `report.json`, and `answers.jsonl` where there are tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from wf_formats.exports import GGUF_SUFFIX, HUB_PREFIX
from wf_formats.printable import printable
from wf_formats.urls import meant_url
from wrinklefree_eval.errors import EvalRequestError
from wrinklefree_eval.models import ModelKind, check_kind, check_masks, recognise
from wrinklefree_eval.readable import check_reading
from wrinklefree_eval.task_files import OUR_TASKS

REPORT, ANSWERS = "report.json", "answers.jsonl"
_READ = ("model_path", "text", "adapter")
_FOLDERS = ("tasks_dir", "data_dir")
_NOT_THERE = ("output", "answers", "describe")


def described(ctx: typer.Context, names: list[str]) -> dict[str, Any]:
    """What `wf` makes a job of; the keys are told in docs/extending.md.

    Args:
        ctx: Of the command `evaluate`.
        names: Of the tasks.

    Raises:
        EvalRequestError: an option that cannot be meant elsewhere; a task that names a file outside of
            --tasks-dir and --data-dir.
        UserError: as the evaluation here.
    """
    given = ctx.params
    model, texts, adapter = str(given["model_path"]), list(given["text"] or []), given["adapter"]
    if given["output"] is not None or given["answers"] is not None:
        option = "--answers" if given["output"] is None else "--output"
        raise EvalRequestError(
            f"{option}: leave it out; `wf eval --results RUN` fetches {REPORT} and {ANSWERS}"
        )
    if not texts and not names:
        raise EvalRequestError("nothing to measure: give --text, --tasks or both")
    for option in _FOLDERS:
        if given[option] is not None and _is_elsewhere(str(given[option])):
            shown = f"--{option.replace('_', '-')} {given[option]}"
            raise EvalRequestError(f"{shown}: give a folder of this machine; what is needed of it goes along")
    kind = given["kind"]
    if not _is_elsewhere(model):
        found = recognise(Path(model))
        kind = kind or found
        check_kind(Path(model), kind)
        check_masks(Path(model), given["samples"], given["seed"])
    here = [Path(text) for text in texts if not _is_elsewhere(text)]
    check_reading([], here, names, given["tasks_dir"], given["data_dir"])
    if adapter is not None and not Path(adapter).is_file():
        raise EvalRequestError(f"there is no file {adapter}: give --adapter the GGUF file of corrections")
    inputs = _inputs([model, *texts, *([] if adapter is None else [adapter])], ctx, names)
    return {
        "label": printable(Path(model).name.partition("@")[0])[:64] or "model",
        "arguments": list(_arguments(ctx, names, inputs)),
        "inputs": inputs,
        "on_gpu": _can_use_gpu(model, kind),
    }


def _is_elsewhere(text: str) -> bool:
    return text.startswith(HUB_PREFIX) or meant_url(text) is not None


def _place(given: object) -> str:
    """As `wf` takes it: a URL, `hub:...`, or the whole path of a file or folder here."""
    text = str(given)
    path = Path(text).absolute()
    return text if _is_elsewhere(text) else str(path if path.name not in ("", "..") else path.resolve())


def _can_use_gpu(model: str, kind: ModelKind | None) -> bool:
    """llama.cpp and the native engine run on CPUs here; of what is elsewhere only the name is known."""
    if kind is not None:
        return kind in (ModelKind.CHECKPOINT, ModelKind.HF)
    return not model.partition("@")[0].endswith(GGUF_SUFFIX)


def _inputs(read: list[Any], ctx: typer.Context, names: list[str]) -> dict[str, list[str]]:
    """Place -> the files of a folder that are needed; none: all of them."""
    from wrinklefree_eval.tasks_elsewhere import data_files, task_files

    found: dict[str, list[str]] = {_place(one): [] for one in read}
    tasks_dir, data_dir = (ctx.params[name] for name in _FOLDERS)
    needed = []
    if names and tasks_dir != OUR_TASKS:
        needed.append((_place(tasks_dir), task_files(tasks_dir)))
    if names and data_dir is not None:
        needed.append((_place(data_dir), data_files(names, tasks_dir)))
    whole = set(found)
    for place, files in needed:
        if files and place not in whole:
            found[place] = list(dict.fromkeys([*found.get(place, ()), *files]))
    return found


def _arguments(ctx: typer.Context, names: list[str], inputs: dict[str, list[str]]) -> Iterator[str]:
    """The command line there: what was given, paths whole."""
    for parameter in ctx.command.params:
        name, value = str(parameter.name), ctx.params.get(str(parameter.name))
        is_input = name in (*_READ, *_FOLDERS)
        if name in _NOT_THERE or value is None or value == parameter.default:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            text = _place(one) if is_input else str(one)
            if not is_input or text in inputs:
                yield from (parameter.opts[0], text)
    yield from ("--output", REPORT)
    if names:
        yield from ("--answers", ANSWERS)
