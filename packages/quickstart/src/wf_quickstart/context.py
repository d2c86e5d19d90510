"""What every step works with: the options, and where things are in the output folder.

text/{train,held_out}.jsonl   model/source.json   checkpoints/quickstart/<stage>/final
eval/<name>.json   export/{model.gguf,proof.json,speed.json}   llamacpp/<name>{.json,-<i>.txt}
logs/<step>.log    report.md   report.json   plots/*.png
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wf_formats.file_names import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from wf_formats.json_file import read_value
from wf_quickstart.errors import QuickstartError
from wf_quickstart.options import Options

EXPERIMENT = "quickstart"
CALIBRATION, DISTILLATION = "stage1_5", "stage3"
"""Stages, and steps, that are planned into the time."""
CHATML = "<|im_start|>"


@dataclass(frozen=True)
class Context:
    """calibration_minutes, distillation_minutes: how long stage 1.5 and stage 3 may take, asked when they
    begin; None: their steps are fixed."""

    options: Options
    calibration_minutes: Callable[[], float | None] = lambda: None
    distillation_minutes: Callable[[], float | None] = lambda: None

    @property
    def folder(self) -> Path:
        return self.options.output

    @property
    def train_text(self) -> Path:
        return self.folder / "text" / "train.jsonl"

    @property
    def held_out_text(self) -> Path:
        return self.folder / "text" / "held_out.jsonl"

    @property
    def source_file(self) -> Path:
        return self.folder / "model" / "source.json"

    @property
    def teacher(self) -> Path:
        """Hugging Face folder of the dense model."""
        return Path(read_value(self.source_file, QuickstartError)["folder"])

    @property
    def original_gguf(self) -> Path | None:
        """The original model as a GGUF file; known for the packaged model only."""
        name = read_value(self.source_file, QuickstartError)["gguf"]
        return Path(name) if name else None

    @property
    def speaks_chatml(self) -> bool:
        """Whether the model's chat template is that of the packaged conversations."""
        files = (self.teacher / name for name in (CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE))
        return any(CHATML in path.read_text(encoding="utf-8") for path in files if path.is_file())

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def run_folder(self, stage: str) -> Path:
        return self.checkpoints / EXPERIMENT / stage

    def checkpoint(self, stage: str) -> Path:
        return self.run_folder(stage) / "final"

    @property
    def last_stage(self) -> str:
        """The one whose result is exported."""
        return DISTILLATION if self.options.distil else CALIBRATION

    @property
    def gguf(self) -> Path:
        return self.folder / "export" / "model.gguf"

    @property
    def proof(self) -> Path:
        return self.folder / "export" / "proof.json"

    @property
    def engine_speeds(self) -> Path:
        return self.folder / "export" / "speed.json"

    def llamacpp(self, name: str) -> Path:
        """A file of the measurements in llama.cpp."""
        return self.folder / "llamacpp" / name

    def log(self, step: str) -> Path:
        return self.folder / "logs" / f"{step}.log"
