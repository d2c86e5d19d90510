"""The steps of a quickstart. Each runs a child process or two and returns figures for the report.

Where things are (in the output folder):
    text/{train,held_out}.jsonl   model/source.json   checkpoints/quickstart/<stage>/final
    eval/<name>.json   export/model.gguf   export/proof.json   export/speed.json
    logs/<step>.log    report.md   report.json   plots/*.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wf_deployer.commands.train import STAGES
from wf_deployer.errors import CommandError
from wf_deployer.files import read_json, write_json
from wf_deployer.jobs.progress import read_metrics
from wf_deployer.quickstart.children import Child, run_child
from wf_deployer.quickstart.display import StepLine
from wf_deployer.quickstart.options import Conversion, Options, Source, choose_conversion
from wf_deployer.quickstart.text import python_reference, user_texts, write_corpus
from wf_deployer.workspace import script_command

EXPERIMENT = "quickstart"
SEQUENCE_LENGTH_TOKENS = 256
BATCH_SIZE = 1
ALIGN_LEARNING_RATE = 1e-3
TRAIN_LEARNING_RATE = 1e-3
EVAL_TOKENS = 4096
EVAL_CONTEXT_TOKENS = 512
PROOF_TOKENS = 256

# The other packages are not imported here; these run in processes of their own.
_PACKAGED = """
import bitnet_arch, json, sys
source = {"folder": str(bitnet_arch.packaged_model_dir()), "gguf": str(bitnet_arch.packaged_gguf())}
open(sys.argv[1], "w").write(json.dumps(source))
"""
_HUB = """
import huggingface_hub, json, sys
wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
folder = huggingface_hub.snapshot_download(sys.argv[2], allow_patterns=wanted)
open(sys.argv[1], "w").write(json.dumps({"folder": folder, "gguf": None}))
"""


@dataclass(frozen=True)
class Context:
    """What a step works with."""

    options: Options

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
        return Path(read_json(self.source_file)["folder"])

    @property
    def original_gguf(self) -> Path | None:
        """The original model as a GGUF file; known for the packaged model only."""
        name = read_json(self.source_file)["gguf"]
        return Path(name) if name else None

    @property
    def conversion(self) -> Conversion:
        return choose_conversion(self.teacher)

    def run_folder(self, stage: str) -> Path:
        return self.folder / "checkpoints" / EXPERIMENT / stage

    def checkpoint(self, stage: str) -> Path:
        return self.run_folder(stage) / "final"

    @property
    def gguf(self) -> Path:
        return self.folder / "export" / "model.gguf"

    @property
    def proof(self) -> Path:
        return self.folder / "export" / "proof.json"

    def log(self, step: str) -> Path:
        return self.folder / "logs" / f"{step}.log"

    def held_out_sample(self) -> str:
        """The longest held-out document: the prompt whose reading speed is measured."""
        lines = self.held_out_text.read_text(encoding="utf-8").splitlines()
        return str(max((json.loads(line)["text"] for line in lines), key=len))


def prepare_text(context: Context, line: StepLine) -> dict[str, Any]:
    context.train_text.parent.mkdir(exist_ok=True)
    texts = context.options.texts
    corpus = user_texts(texts) if texts else python_reference()
    figures = write_corpus(corpus, context.train_text, context.held_out_text)
    line.update(note=f"{figures['train_chars']:,} characters, {figures['held_out_chars']:,} held out")
    return dict(figures)


def find_model(context: Context, line: StepLine) -> dict[str, Any]:
    context.source_file.parent.mkdir(exist_ok=True)
    options = context.options
    if options.source is Source.path:
        write_json(context.source_file, {"folder": options.name, "gguf": None})
    else:
        code = _PACKAGED if options.source is Source.packaged else _HUB
        command = [sys.executable, "-c", code, str(context.source_file), *filter(None, [options.name])]
        run_child(Child(f"get {options.model_label}", command, context.log("model")))
    conversion = context.conversion
    line.update(note=options.model_label)
    return {"folder": str(context.teacher), "scheme": conversion.scheme, "sub_norm": conversion.sub_norm}


def training_step(
    stage: str, settings: Callable[[Options], list[str]]
) -> Callable[[Context, StepLine], dict[str, Any]]:
    """A step that runs the trainer's stage (`1`, `1.9`, `2`) with further overrides."""
    name, hydra_option = STAGES[stage]

    def run(context: Context, line: StepLine) -> dict[str, Any]:
        overrides = [f"training={hydra_option}", *common_overrides(context), *settings(context.options)]
        child = Child(f"stage {stage}", [*script_command("train"), *overrides], context.log(name))
        run_child(child, on_poll=lambda: _show_metrics(context, name, line))
        summary: dict[str, Any] = read_json(context.run_folder(name) / "summary.json")
        if name != "stage1":
            line.update(note=f"loss {summary['first_loss']:.3f} → {summary['last_loss']:.3f}")
        return summary

    return run


def common_overrides(context: Context) -> list[str]:
    """Hydra overrides of every stage. A packaged model keeps its name; others are folders by now."""
    options, conversion = context.options, context.conversion
    is_packaged = options.source is Source.packaged
    text = _quoted(str(context.train_text))
    return [
        f"experiment={EXPERIMENT}",
        f"output_dir={_quoted(str(context.folder / 'checkpoints'))}",
        "model=smollm2_135m",
        *([] if is_packaged else ["model.source=path", f"model.name={_quoted(str(context.teacher))}"]),
        f"model.scheme={conversion.scheme}",
        f"model.sub_norm={str(conversion.sub_norm).lower()}",
        f"data.sources=[{{kind:path,name:text,location:{text}}}]",
        f"training.sequence_length_tokens={SEQUENCE_LENGTH_TOKENS}",
        f"training.batch_size={BATCH_SIZE}",
        # An update of 134 million parameters takes 0.4 s instead of 3.3 s (2 cores, busy machine).
        "optimizer.fused=true",
        "training.checkpoint.every_steps=0",  # only where it is stopped
        "training.checkpoint.keep_last=1",
        "logging.progress_bar=none",
    ]


def _quoted(text: str) -> str:
    """A string of Hydra's override grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def align_settings(options: Options) -> list[str]:
    return [
        f"training.max_steps={options.num_align_steps}",
        f"training.learning_rate={ALIGN_LEARNING_RATE}",
        f"training.schedule.warmup={options.num_align_steps // 10}",
    ]


def train_settings(options: Options) -> list[str]:
    return [
        f"training.max_steps={options.num_train_steps}",
        f"training.learning_rate={TRAIN_LEARNING_RATE}",
        f"training.schedule.warmup={options.num_train_steps // 10}",
        f"training.schedule.decay={options.num_train_steps // 2}",
    ]


def _show_metrics(context: Context, stage: str, line: StepLine) -> None:
    rows = read_metrics(context.run_folder(stage))
    if not rows:
        return
    options = context.options
    total = {"stage1_9": options.num_align_steps, "stage2": options.num_train_steps}[stage]
    last = rows[-1]
    speed = last.get("train/tokens_per_s", 0.0)
    line.update(last["step"], total, f"loss {last.get('train/loss', float('nan')):.3f}  {speed:.0f} tokens/s")


def measuring_step(
    name: str, model: Callable[[Context], Path]
) -> Callable[[Context, StepLine], dict[str, Any]]:
    """A step that measures the perplexity of a model on the held-out text."""

    def run(context: Context, line: StepLine) -> dict[str, Any]:
        output = context.folder / "eval" / f"{name}.json"
        command = [*script_command("evaluate"), "--model-path", str(model(context))]
        command += ["--text", str(context.held_out_text), "--max-tokens", str(EVAL_TOKENS)]
        command += ["--context", str(EVAL_CONTEXT_TOKENS), "--output", str(output)]
        run_child(Child(f"perplexity of {name}", command, context.log(f"eval_{name}")))
        found = read_json(output)
        perplexity = found["perplexity"][0]["perplexity"]
        line.update(note=f"perplexity {perplexity:,.1f}")
        return {"model": found["model"], **found["perplexity"][0], "environment": found["environment"]}

    return run


def export_gguf(context: Context, line: StepLine) -> dict[str, Any]:
    context.gguf.parent.mkdir(exist_ok=True)
    command = [*script_command("export"), "--checkpoint", str(context.checkpoint("stage2"))]
    command += ["--output", str(context.gguf), "--format", "gguf", "--type", "auto"]
    command += ["--embeddings", "q8_0", "--overwrite"]
    run_child(Child("export", command, context.log("export")))
    size = context.gguf.stat().st_size
    line.update(note=f"{size / 1e6:.1f} MB")
    return {"bytes": size}


def prove_export(context: Context, line: StepLine) -> dict[str, Any]:
    command = [*script_command("verify"), "--checkpoint", str(context.checkpoint("stage2"))]
    command += ["--export", str(context.gguf), "--tokens", str(PROOF_TOKENS), "--json", str(context.proof)]
    context.proof.unlink(missing_ok=True)
    try:
        run_child(Child("proof of the export", command, context.log("proof")))
    except CommandError:
        if not context.proof.is_file():  # with the findings written, the report tells what is wrong
            raise
    proof: dict[str, Any] = read_json(context.proof)
    line.update(note=f"mean |Δ log-prob| {proof['judged']['mean_abs_delta']:.5f} in {proof['runtime']}")
    return proof


def llamacpp_step(
    name: str, gguf: Callable[[Context], Path | None]
) -> Callable[[Context, StepLine], dict[str, Any]]:
    """A step that measures the speed of a GGUF file in llama.cpp and lets it answer PROMPTS."""

    def run(context: Context, line: StepLine) -> dict[str, Any]:
        from wf_deployer.quickstart.gguf_sizes import gguf_sizes
        from wf_deployer.quickstart.llamacpp import serving, try_model

        path = gguf(context)
        if path is None:
            line.update(note="no GGUF file of this model is at hand: left out")
            return {}
        with serving(f"llama.cpp, {name}", path, context.log(f"llamacpp_{name}")) as server:
            found = try_model(server, context.held_out_sample(), lambda done, total: line.update(done, total))
        line.update(
            note=f"prompt {found['prompt_tokens_per_s']:.0f}, generation "
            f"{found['generation_tokens_per_s']:.0f} tokens/s"
        )
        sizes = gguf_sizes(path)
        return {"file": path.name, "sizes": asdict(sizes), **found}

    return run
