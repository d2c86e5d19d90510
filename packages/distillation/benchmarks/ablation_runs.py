"""What the ablation does by the public commands: starts, training runs, answers and comparisons.

Each is skipped where its result is there already, and a training run that was stopped goes on from its newest
checkpoint; so the whole can be ended at any time and called again.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation_arms import ARMS, STARTS, Arm
from ablation_items import Items

from wf_formats.atomic import atomic_write_json
from wf_formats.overrides import override, quoted
from wf_quickstart.children import Child, python, run_child

TEXTS = ("wikipedia", "fineweb", "fineweb_edu", "openstax", "c4", "books")
"""Ordinary text of DATA/pretrain that starts are made on; none of it is a task's."""


@dataclass(frozen=True)
class Settings:
    """What must not change between calls on one output folder: options of the command line, by name.

    model: a folder of a dense model; None: SmolLM2-135M-Instruct. length: in tokens; batch: in sequences.
    """

    task: str
    model: str | None
    items: int
    held_out: int
    eval_items: int | None
    length: int
    batch: int
    epochs: float
    precision: str
    calibration_minutes: float


@dataclass(frozen=True)
class Run:
    """One training: an arm with a learning rate and a seed."""

    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-lr{self.rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class Bench:
    """steps: of every run; calibrated: a folder that takes the place of the start of that name."""

    output: Path
    data: Path
    items: Items
    settings: Settings
    steps: int
    calibrated: Path | None = None

    def start(self, name: str) -> Path:
        """The checkpoint that arms start from, made where it is not there."""
        if name == "calibrated" and self.calibrated is not None:
            return self.calibrated
        start = STARTS[name]
        folder = self.output / "starts" / name / f"stage{start.stage.replace('.', '_')}"
        if not (folder / "final").is_dir():
            before = [] if start.after is None else [_start_from(self.start(start.after))]
            minutes = [f"training.ternarize.minutes={self.settings.calibration_minutes}"]
            self._train(
                start.stage,
                name,
                self.output / "starts",
                [
                    *start.model,
                    f"data.sources=[{','.join(self._texts())}]",
                    *before,
                    *start.settings,
                    *(minutes if start.stage == "1.5" else []),
                ],
            )
        return folder / "final"

    def train(self, run: Run, teacher: Path | None) -> dict[str, Any]:
        """The record of a run: its loss curve, its time, and what it answers to held-out items.

        Args: teacher None: the dense original.
        """
        record = self.output / "runs" / f"{run.name}.json"
        if not record.is_file():
            folder = self.train_steps(run, teacher, self.steps, self.output / "runs")
            found = {"curve": curve(folder), "seconds": _summary(folder)["seconds"]}
            found |= self.evaluate(run, self.items.held_out, "held_out")
            atomic_write_json(record, found)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        loaded: dict[str, Any] = json.loads(record.read_text())
        return loaded

    def train_steps(self, run: Run, teacher: Path | None, steps: int, output: Path, start: str = "") -> Path:
        """The run folder of stage 3 after that many steps."""
        arm, settings = ARMS[run.arm], self.settings
        source = f"{{kind:path,name:{settings.task},location:{quoted(str(self.items.train))},"
        overrides = [
            *arm.overrides,
            _start_from(self.start(start or arm.start)),
            f"data.sources=[{source}format:{settings.task},on_too_long:truncate}}]",
            *_teacher(arm, teacher),
            f"seed={run.seed}",
            f"training.learning_rate={run.rate}",
            f"training.max_steps={steps}",
            f"training.batch_size={settings.batch}",
            f"training.sequence_length_tokens={settings.length}",
            f"training.precision={settings.precision}",
            "training.schedule.kind=cosine",
            "training.schedule.warmup=0.06",
            "training.schedule.decay=0",
            "training.schedule.min_ratio=0",
            f"training.checkpoint.every_steps={max(10, steps // 4)}",
            "training.checkpoint.keep_last=1",
            "logging.console_every_steps=10",
        ]
        self._train("3", run.name, output, overrides)
        return output / run.name / "stage3"

    def evaluate(self, run: Run, data: Path, name: str) -> dict[str, Any]:
        """Accuracy, its standard error, the perplexity of the right answers and the majority's accuracy."""
        return self.ask(self.final(run), data, self.answers(run, name))

    def final(self, run: Run) -> Path:
        """The result of a run."""
        return self.output / "runs" / run.name / "stage3" / "final"

    def answers(self, run: Run, name: str) -> Path:
        """The file of a run's answers; its report lies beside it."""
        return self.output / "answers" / f"{run.name}.{name}.jsonl"

    def ask(self, folder: Path, data: Path, answers: Path, limit: int | None = None) -> dict[str, Any]:
        """As `evaluate`, of any checkpoint."""
        report = answers.with_suffix(".json")
        if not (report.is_file() and answers.is_file()):
            answers.parent.mkdir(parents=True, exist_ok=True)
            options = {"model-path": folder, "tasks": self.settings.task, "data-dir": data}
            options |= {"answers": answers, "output": report}
            command = [f"--{key}={value}" for key, value in options.items()]
            command += [] if limit is None else [f"--limit={limit}"]
            run_child(self._child(f"answers {answers.stem}", "wrinklefree_eval.evaluate", *command))
        measured = json.loads(report.read_text())
        scores = measured["tasks"][self.settings.task]
        return {
            "accuracy": scores["acc"],
            "stderr": scores["acc_stderr"],
            "majority": scores["majority"],
            "answer_perplexity": _answer_perplexity(answers),
            "num_items": scores["num_samples"],
            "evaluation_seconds": measured["seconds"],
        }

    def compare(self, first: Run, second: Run) -> dict[str, Any]:
        """McNemar's test of two runs' answers to the reported items, by `wf compare`."""
        output = self.output / "answers" / f"{first.name}.{second.name}.json"
        if not output.is_file():
            files = [str(self.answers(run, "test")) for run in (first, second)]
            title = f"compare {first.name} {second.name}"
            run_child(self._child(title, "wrinklefree_eval.compare", *files, f"--output={output}"))
        rows = json.loads(output.read_text())["comparisons"]
        return next(row for row in rows if row["metric"] == "acc") | {"with": first.name}

    def _texts(self) -> list[str]:
        files = [(name, self.data / "pretrain" / name / "train.jsonl.gz") for name in TEXTS]
        found = [
            f"{{kind:path,name:{name},location:{quoted(str(path))}}}"
            for name, path in files
            if path.is_file()
        ]
        return [*found, "{kind:packaged,name:chat}"]

    def _train(self, stage: str, experiment: str, output: Path, overrides: list[str]) -> None:
        model = self.settings.model
        named = [] if model is None else ["model.source=path", override("model.name", model)]
        common = ["model=smollm2_135m", *named, "logging.progress_bar=none", f"experiment={experiment}"]
        where = override("output_dir", str(output))
        command = ["-s", stage, *common, where, *overrides]
        run_child(self._child(f"stage {stage} {experiment}", "wrinklefree.train", *command))

    def _child(self, title: str, module: str, *arguments: str) -> Child:
        log = self.output / "logs" / f"{title.replace(' ', '-')}.log"
        print(f"{title} (log: {log})", flush=True)
        return Child(title, python(module, *arguments), log)


def _start_from(folder: Path) -> str:
    return override("training.start_from", str(folder))


def _teacher(arm: Arm, folder: Path | None) -> list[str]:
    if not arm.has_teacher or folder is None:
        return []
    return ["model.teacher.source=path", override("model.teacher.name", str(folder))]


def _summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def curve(folder: Path) -> list[tuple[int, float]]:
    """Step and cross-entropy of the answers, in nats."""
    with (folder / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row["bitdistill/task_loss_nats"])) for row in csv.DictReader(file)]


def step_seconds(folder: Path, tokens: int) -> float:
    """Of the fastest step but the first, which warms up; `tokens` are those of a step."""
    with (folder / "metrics.csv").open() as file:
        rates = [float(row["train/tokens_per_s"]) for row in csv.DictReader(file)]
    return tokens / max(rates[1:])


def _answer_perplexity(answers: Path) -> float:
    """exp of the mean negative log-probability of the right word."""
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    return math.exp(-sum(row["logprobs"][row["wanted"]] for row in rows) / len(rows))
