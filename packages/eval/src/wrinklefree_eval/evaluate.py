"""`evaluate`: perplexity and lm-eval tasks of one model."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from wrinklefree_eval.answers import Answer, check_target, write_answers
from wrinklefree_eval.command import FramedCommand, new_app
from wrinklefree_eval.errors import EvalRequestError
from wrinklefree_eval.models import EvalModel, ModelKind, check_masks, local_path
from wrinklefree_eval.opening import open_model
from wrinklefree_eval.task_files import OUR_TASKS

REPORT_KEYS = ("model", "perplexity", "tasks")
"""Of a file that an earlier run wrote."""
app = new_app()


@app.command(cls=FramedCommand)
def evaluate(
    ctx: typer.Context,
    model_path: Annotated[str, typer.Option(help="Checkpoint folder, exported folder, or GGUF file.")],
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text for perplexity: .txt, .jsonl, .jsonl.gz or .parquet; repeat for more."),
    ] = None,
    tasks: Annotated[str, typer.Option(help="lm-eval tasks, separated by commas.")] = "",
    tasks_dir: Annotated[Path, typer.Option(help="Folder of lm-eval task files.")] = OUR_TASKS,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the tasks' data.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Samples of each task.")] = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=8, help="Tokens of context; 1024 or what the model has if not given, in whole blocks."
        ),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens between windows; the widest if not given.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Scored tokens of each text; all if not given.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Of tasks in PyTorch.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="All cores if not given.")] = None,
    kind: Annotated[ModelKind | None, typer.Option(help="Recognised if not given.")] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="GGUF file of low-rank corrections beside a GGUF model.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Masked copies of each block of a diffusion model; 16 if not given."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Of the masks of a diffusion model; 0 if not given."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="JSONL file for what was answered to each item of the tasks.")
    ] = None,
    describe: Annotated[
        bool, typer.Option("--describe", help="Check, print what it would be elsewhere as JSON, and leave.")
    ] = False,
) -> None:
    """Measure a model: perplexity on texts, accuracy on lm-eval tasks. Of a block-diffusion model a bound on
    perplexity, and tasks by a bound on the likelihood of answers.

    With --cloud NAME on machines of others: wf eval --cloud modal --help.

    Example: wf eval --model-path model.gguf --text wiki.txt --tasks piqa,arc_easy --data-dir data
    """
    from rich.console import Console

    from wf_formats.digests import model_sha256
    from wrinklefree_eval import results

    for option, given in (("--model-path", [model_path]), ("--text", text or [])):
        if "" in given:
            raise EvalRequestError(f"{option} is empty: give a path; the current folder is .")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if describe:
        from wrinklefree_eval.elsewhere import described

        typer.echo(json.dumps(described(ctx, names)))
        return
    path, *texts = map(local_path, [model_path, *(text or [])])
    _check_request(path, kind, texts, names, tasks_dir, data_dir, output, answers)
    check_masks(path, samples, seed)
    start_s = time.perf_counter()
    model = open_model(path, context, kind, threads, adapter)
    try:
        digest = model_sha256(path)
        found: dict[str, Any] = {
            "model": {"path": str(path), "kind": str(model.kind), "sha256": digest} | model.facts()
        }
        found |= _of_texts(model, texts, stride, max_tokens, samples, seed)
        scores, said, how = _tasks(model, names, tasks_dir, data_dir, limit, batch_size)
        found |= {"tasks": scores, **how, "environment": results.environment()}
    finally:
        model.close()
    found["seconds"] = time.perf_counter() - start_s
    if output is not None:
        from wf_formats.atomic import atomic_write_text

        atomic_write_text(output, json.dumps(found, indent=2) + "\n")
    if answers is not None:
        write_answers(answers, said)
    results.show(found, Console())


def _check_request(
    model_path: Path,
    kind: ModelKind | None,
    texts: list[Path],
    tasks: list[str],
    tasks_dir: Path,
    data_dir: Path | None,
    output: Path | None,
    answers: Path | None,
) -> None:
    """Raises: UserError for what is found wrong without loading the model."""
    from wf_formats.targets import check_report
    from wrinklefree_eval.readable import check_reading

    if not texts and not tasks:
        raise EvalRequestError("nothing to measure: give --text, --tasks or both")
    if output is not None:
        check_report(output, REPORT_KEYS)
    if answers is not None:
        if not tasks:
            raise EvalRequestError("--answers are those of tasks: give --tasks")
        check_target(answers)
    check_reading([model_path] if kind is None else [], texts, tasks, tasks_dir, data_dir)


def _of_texts(
    model: EvalModel,
    texts: list[Path],
    stride: int | None,
    max_tokens: int | None,
    samples: int | None,
    seed: int | None,
) -> dict[str, Any]:
    """Perplexities, or bounds on them."""
    from data_handler.readers import read_documents

    if model.kind in (ModelKind.CHECKPOINT, ModelKind.HF):
        from wrinklefree_eval.bound import measure_bound
        from wrinklefree_eval.diffusion_model import DiffusionModel

        if isinstance(model, DiffusionModel):
            model.samples, model.seed = samples or model.samples, seed or model.seed
            bounds = [
                measure_bound(model, read_documents(path), str(path), stride, max_tokens) for path in texts
            ]
            return {"perplexity": [], "bound": [bound.to_json() for bound in bounds]}
    from wrinklefree_eval.perplexity import measure

    found = [measure(model, read_documents(path), str(path), stride, max_tokens) for path in texts]
    return {"perplexity": [perplexity.to_json() for perplexity in found]}


def _tasks(
    model: EvalModel,
    names: list[str],
    tasks_dir: Path,
    data_dir: Path | None,
    limit: int | None,
    batch_size: int,
) -> tuple[dict[str, dict[str, Any]], list[Answer], dict[str, Any]]:
    """Scores, answers, and how they were got where it is not by likelihood."""
    from wrinklefree_eval.task_runner import ask_tasks

    if not names:
        return {}, [], {}
    harness = model.harness(batch_size)
    scores, said = ask_tasks(harness, names, tasks_dir, data_dir, limit)
    if model.kind not in (ModelKind.CHECKPOINT, ModelKind.HF):
        return scores, said, {}
    from wrinklefree_eval.diffusion_harness import DiffusionLM

    if not isinstance(harness, DiffusionLM):
        return scores, said, {}
    return harness.labelled(scores, said)


def main() -> None:
    """Entry of scripts/evaluate.py."""
    app(prog_name=os.environ.get("WF_PROG"))


if __name__ == "__main__":
    main()
