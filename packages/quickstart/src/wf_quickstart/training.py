"""The steps that the trainer does: converting (stage 1), calibrating (stage 1.5), distilling (stage 3)."""

from __future__ import annotations

from typing import Any

from wf_formats.json_file import read_value
from wf_formats.overrides import override, quoted
from wf_formats.packaged import ModelSource
from wf_quickstart.children import Child, python, run_child
from wf_quickstart.context import CALIBRATION, DISTILLATION, EXPERIMENT, Context
from wf_quickstart.display import StepLine
from wf_quickstart.errors import QuickstartError

SCHEME = "group64"
BLOCK_TOKENS = 16384
REFINE_STEPS = 64
MOST_REFINE_STEPS, MOST_DISTIL_STEPS = 128, 2000
"""Where there is time: more than these help little."""
EMBEDDING_RATE = 0.012
"""The text is what the model will be used for (docs/results.md)."""
EVALUATION_TOKENS = 2048
SCALES_SHARE = 1 / 3
"""With stage 3: what the distillation of scales gets of the time after the blocks; stage 3 has the rest."""
DISTILLATION_SETTINGS = (
    "training.learning_rate=1e-4",
    "training.sequence_length_tokens=512",
    "training.batch_size=2",
    "training.checkpoint.every_steps=200",
    "training.checkpoint.keep_last=1",
)
"""Stage 3's own default is the rest: forward KL against the original. Precision: that of the calibration."""


def convert(context: Context, line: StepLine) -> dict[str, Any]:
    return _run_stage("1", "stage1", context, ["training.fit.evaluation_tokens=0"])


def calibrate(context: Context, line: StepLine) -> dict[str, Any]:
    """The summary, and the blocks' relative errors before and after refinement."""
    minutes = context.calibration_minutes()
    settings = [
        *_time_settings(context, minutes),
        f"training.ternarize.tokens={BLOCK_TOKENS}",
        f"training.ternarize.moment_tokens={BLOCK_TOKENS}",
        f"training.ternarize.embedding_rate={EMBEDDING_RATE}",
        f"training.ternarize.evaluation_tokens={EVALUATION_TOKENS}",
    ]
    summary = _run_stage("1.5", CALIBRATION, context, settings)
    line.update(note=f"held-out loss {summary['first_loss']:.2f} → {summary['last_loss']:.2f}")
    blocks = read_value(context.run_folder(CALIBRATION) / "blocks.json", QuickstartError)
    return summary | {
        "minutes": minutes,
        "refine_steps": [row["refine_steps"] for row in blocks],
        "block_errors": [[row["stream_solved"], row["stream"]] for row in blocks],
    }


def distil(context: Context, line: StepLine) -> dict[str, Any]:
    """The summary."""
    minutes = context.distillation_minutes()
    steps = context.options.num_distil_steps if minutes is None else "null"
    length = [f"training.max_steps={steps}", f"training.minutes={'null' if minutes is None else minutes}"]
    precision = _summary(CALIBRATION, context)["precision"]
    settings = [f"training.precision={precision}", *DISTILLATION_SETTINGS, *length]
    summary = _run_stage("3", DISTILLATION, context, settings)
    line.update(note=f"{summary['first_loss']:.2f} → {summary['last_loss']:.2f} nats apart")
    return summary | {"minutes": minutes}


def _time_settings(context: Context, minutes: float | None) -> list[str]:
    """Steps as given, or the most that a plan may take."""
    if minutes is None:
        refine_steps, distil_steps = REFINE_STEPS, context.options.num_distil_steps
    else:
        refine_steps, distil_steps = MOST_REFINE_STEPS, MOST_DISTIL_STEPS
    is_shared = context.options.distil and minutes is not None
    return [
        f"training.ternarize.minutes={'null' if minutes is None else minutes}",
        *([f"training.ternarize.distil_share={SCALES_SHARE}"] if is_shared else []),
        f"training.ternarize.refine_steps={refine_steps}",
        f"training.ternarize.distil_steps={distil_steps}",
    ]


def _run_stage(stage: str, name: str, context: Context, settings: list[str]) -> dict[str, Any]:
    """Runs a stage of the trainer with further overrides; returns its summary.

    Args:
        stage: As `wf train -s` takes it.
        name: Of its run folder.
    """
    command = python("wrinklefree.train", "-s", stage, *common_overrides(context), *settings)
    run_child(Child(f"stage {stage}", command, context.log(name)))
    return _summary(name, context)


def _summary(name: str, context: Context) -> dict[str, Any]:
    """Of a run of the trainer, by the name of its folder."""
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
