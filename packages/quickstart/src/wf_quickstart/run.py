"""The order of the steps, what is skipped, and what is said at the end."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.markup import escape

from wf_formats.aside import move_aside
from wf_formats.file_names import META_FILE
from wf_formats.packaged import ModelSource
from wf_formats.run_files import Progress, read_progress
from wf_quickstart import steps, training
from wf_quickstart.context import CALIBRATION, DISTILLATION, EXPERIMENT, Context
from wf_quickstart.display import Display, StepLine
from wf_quickstart.errors import QuickstartError
from wf_quickstart.options import Options
from wf_quickstart.speed import compare_engines
from wf_quickstart.state import State, locked, refuse_foreign_folder
from wf_quickstart.timing import Timing

MIN_FREE_BYTES = 4 * 10**9
"""Two float32 checkpoints of the packaged model, its blocks while they are worked on, and the export."""
DISTILLATION_BYTES = 4 * 10**9
"""Stage 3: two checkpoints with the optimizer while one replaces the other, and the result."""


@dataclass(frozen=True)
class Step:
    """A step: done when its record fits and `outputs` (relative to the folder) are there.

    usual_s: what it takes for SmolLM2-135M on two cores, calibration and stage 3 apart (timing.py).
    """

    name: str
    title: str
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[[Context, StepLine], dict[str, Any]]
    usual_s: float = 0.0


def _stage_output(stage: str) -> tuple[str, ...]:
    return (f"checkpoints/{EXPERIMENT}/{stage}/final/{META_FILE}",)


def plan(options: Options) -> list[Step]:
    """The steps in order."""

    def measure(name: str, need: str, model: Callable[[Context], Path], usual_s: float) -> Step:
        num_tokens = steps.ROUGH_EVAL_TOKENS if name == "rounded" else steps.EVAL_TOKENS
        run = steps.measuring_step(name, model, num_tokens)
        title = "Measure the original" if name == "teacher" else f"Measure it {name}"
        return Step(f"eval_{name}", title, ("text", need), (f"eval/{name}.json",), run, usual_s)

    def measure_stage(name: str, stage: str, usual_s: float) -> Step:
        return measure(name, stage, lambda context: context.checkpoint(stage), usual_s)

    original = steps.llamacpp_step("original", lambda c: c.original_gguf)
    exported = steps.llamacpp_step("exported", lambda c: c.gguf)
    original_s = 9 if options.source is ModelSource.packaged else 0
    steps_title = "" if options.num_distil_steps is None else f", {options.num_distil_steps} steps"
    distilled = [
        Step(
            DISTILLATION,
            f"Distil all weights{steps_title}",
            (CALIBRATION,),
            _stage_output(DISTILLATION),
            training.distil,
        ),
        measure_stage("distilled", DISTILLATION, 31),
    ]
    return [
        Step(
            "text", "Prepare the text", (), ("text/train.jsonl", "text/held_out.jsonl"), steps.prepare_text, 1
        ),
        Step("model", "Get the model", (), ("model/source.json",), steps.find_model, 5),
        measure("teacher", "model", lambda context: context.teacher, 29),
        Step(
            "stage1", "Convert to 1.58 bits", ("text", "model"), _stage_output("stage1"), training.convert, 11
        ),
        measure_stage("rounded", "stage1", 12),
        Step(
            CALIBRATION,
            f"Calibrate the ternary weights{steps_title}",
            ("stage1",),
            _stage_output(CALIBRATION),
            training.calibrate,
        ),
        measure_stage("calibrated", CALIBRATION, 31),
        *(distilled if options.distil else []),
        Step(
            "export",
            "Export (GGUF)",
            (Context(options).last_stage,),
            ("export/model.gguf",),
            steps.export_gguf,
            9,
        ),
        Step("proof", "Prove the export", ("export",), ("export/proof.json",), steps.prove_export, 15),
        Step(
            "llamacpp_original",
            "Speed and answers of the original",
            ("text", "model"),
            (),
            original,
            original_s,
        ),
        Step("llamacpp_exported", "Speed and answers of the export", ("text", "export"), (), exported, 8),
        Step(
            "engines", "Speed in the native engine", ("export",), ("export/speed.json",), compare_engines, 5
        ),
    ]


def run_quickstart(options: Options, force: bool, display: Display | None = None) -> None:
    """Runs or continues it; writes the report.

    Raises:
        QuickstartError: a step failed, or the folder cannot be used.
        KeyboardInterrupt: stopped (Ctrl-C or SIGTERM); children are stopped, the state is saved.
    """
    refuse_foreign_folder(options.output)
    with _sigterm_as_interrupt(), locked(options.output):
        state = State(options.output, options.identity(), force)
        _check_disk(options.output, MIN_FREE_BYTES + (DISTILLATION_BYTES if options.distil else 0))
        todo = plan(options)
        timing = _timing(options, state, todo)
        context = Context(options, timing.calibration_minutes, timing.distillation_minutes)
        shown = display or Display(len(todo) + 1)
        shown.say(f"[bold]{escape(options.model_label)}[/] → 1.58 bits, in {escape(str(options.output))}")
        for step in todo:
            _run_step(step, context, state, shown, timing)
        _report(context, state, todo, shown)


def _timing(options: Options, state: State, todo: list[Step]) -> Timing:
    folders = [Context(options).run_folder(stage) for stage in (CALIBRATION, DISTILLATION)]

    def newest() -> Progress | None:
        found = [progress for folder in folders if (progress := read_progress(folder)) is not None]
        return max(found, key=lambda progress: progress.written_s, default=None)

    return Timing(options, state, {step.name: step.usual_s for step in todo}, newest)


def _run_step(step: Step, context: Context, state: State, display: Display, timing: Timing) -> None:
    outputs = [context.folder / output for output in step.outputs]
    if state.is_done(step.name, step.needs, outputs):
        display.skipped(step.title, state.spent_s(step.name))
        return
    is_stale_run = state.is_stale(step.name, step.needs) and step.name.startswith("stage")
    if is_stale_run and context.run_folder(step.name).exists():
        move_aside(context.folder, [context.run_folder(step.name)])
    start_s = time.monotonic()
    try:
        with display.step(step.title, lambda s: timing.glance(step.name, s)) as line:
            figures = step.run(context, line)
    finally:
        state.add_time(step.name, time.monotonic() - start_s)
    if missing := [path for path in outputs if not path.exists()]:
        raise QuickstartError(f"step {step.title!r} ended well but {missing[0]} is missing")
    state.record(step.name, step.needs, figures)


def _check_disk(folder: Path, needed: int) -> None:
    """What an earlier run left in the folder counts as room: it is used again."""
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free + present < needed:
        raise QuickstartError(
            f"{folder} has {free / 1e9:.1f} GB free, {(needed - present) / 1e9:.1f} GB are needed; "
            "choose another --output"
        )


def _report(context: Context, state: State, todo: list[Step], display: Display) -> None:
    from wf_quickstart.ending import say_ending
    from wf_quickstart.plots import write_plots
    from wf_quickstart.report import write_report
    from wf_quickstart.results import collect

    with display.step("Write the report") as line:
        results = collect(context, state, [(step.name, step.title) for step in todo])
        write_plots(results, context.folder / "plots")
        write_report(results, context.folder)
        line.update(note=str(context.folder / "report.md"))
    if not results["proof"]["passed"]:
        problems = "; ".join(results["proof"]["problems"])
        raise QuickstartError(f"the export is NOT PROVED: {problems}; see {context.folder / 'report.md'}")
    say_ending(results, display)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
