"""The steps that the trainer does: converting (stage 1) and calibrating (stage 1.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wf_formats.json_file import read_value
from wf_formats.overrides import override, quoted
from wf_formats.packaged import ModelSource
from wf_formats.run_files import read_metrics
from wf_quickstart.children import Child, python, run_child
from wf_quickstart.context import EXPERIMENT, Context
from wf_quickstart.display import StepLine
from wf_quickstart.errors import QuickstartError

SCHEME = "group64"
BLOCK_TOKENS = 16384
REFINE_STEPS = 64
EVALUATION_TOKENS = 2048


def convert(context: Context, line: StepLine) -> dict[str, Any]:
    return _run_stage("1", "stage1", context, ["training.fit.evaluation_tokens=0"])


def calibrate(context: Context, line: StepLine) -> dict[str, Any]:
    """The summary, and the blocks' relative errors before and after refinement."""
    settings = [
        f"training.ternarize.tokens={BLOCK_TOKENS}",
        f"training.ternarize.moment_tokens={BLOCK_TOKENS}",
        f"training.ternarize.refine_steps={REFINE_STEPS}",
        f"training.ternarize.distil_steps={context.options.num_distil_steps}",
        f"training.ternarize.evaluation_tokens={EVALUATION_TOKENS}",
    ]
    summary = _run_stage("1.5", "stage1_5", context, settings, lambda: _show_calibration(context, line))
    line.update(note=f"held-out loss {summary['first_loss']:.2f} → {summary['last_loss']:.2f}")
    blocks = read_value(context.run_folder("stage1_5") / "blocks.json", QuickstartError)
    return summary | {"block_errors": [[row["stream_solved"], row["stream"]] for row in blocks]}


def _run_stage(
    stage: str, name: str, context: Context, settings: list[str], on_poll: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Runs a stage of the trainer with further overrides; returns its summary.

    Args:
        stage: As `wf train -s` takes it.
        name: Of its run folder.
    """
    command = python("wrinklefree.train", "-s", stage, *common_overrides(context), *settings)
    run_child(Child(f"stage {stage}", command, context.log(name)), on_poll=on_poll)
    summary: dict[str, Any] = read_value(context.run_folder(name) / "summary.json", QuickstartError)
    return summary


def common_overrides(context: Context) -> list[str]:
    """Hydra overrides of every stage. A packaged model keeps its name; others are folders by now."""
    is_packaged = context.options.source is ModelSource.packaged
    sources = [f"{{kind:path,name:text,location:{quoted(str(context.train_text))}}}"]
    if context.speaks_chatml:
        sources.append("{kind:packaged,name:chat}")
    return [
        f"experiment={EXPERIMENT}",
        override("output_dir", str(context.checkpoints)),
        "model=smollm2_135m",
        *([] if is_packaged else ["model.source=path", override("model.name", str(context.teacher))]),
        f"model.scheme={SCHEME}",
        "model.sub_norm=false",
        f"data.sources=[{','.join(sources)}]",
        "logging.progress_bar=none",
    ]


def _show_calibration(context: Context, line: StepLine) -> None:
    folder = context.run_folder("stage1_5")
    if rows := read_metrics(folder):
        last = rows[-1]
        divergence = last.get("train/divergence", float("nan"))
        line.update(last["step"], context.options.num_distil_steps, f"{divergence:.2f} nats apart")
    else:
        done = len(list((folder / "parts").glob("model.layers.*")))
        line.update(note=f"{done} blocks")
