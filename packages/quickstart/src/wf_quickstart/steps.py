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
from wf_deployer.workspace import script_command
from wf_quickstart.children import Child, run_child
from wf_quickstart.display import StepLine
from wf_quickstart.options import Options, Source
from wf_quickstart.text import python_reference, user_texts, write_corpus

EXPERIMENT = "quickstart"
SCHEME = "group64"
BLOCK_TOKENS = 16384
REFINE_STEPS = 64
CHATML = "<|im_start|>"
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
    def speaks_chatml(self) -> bool:
        """Whether the model's chat template is that of the packaged conversations."""
        files = (self.teacher / name for name in ("chat_template.jinja", "tokenizer_config.json"))
        return any(CHATML in path.read_text(encoding="utf-8") for path in files if path.is_file())

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
    line.update(note=options.model_label)
    return {"folder": str(context.teacher), "scheme": SCHEME}


def convert(context: Context, line: StepLine) -> dict[str, Any]:
    return _run_stage("1", context, ["training.fit.evaluation_tokens=0"])


def calibrate(context: Context, line: StepLine) -> dict[str, Any]:
    """The summary, and the blocks' relative errors before and after refinement."""
    settings = [
        f"training.ternarize.tokens={BLOCK_TOKENS}",
        f"training.ternarize.moment_tokens={BLOCK_TOKENS}",
        f"training.ternarize.refine_steps={REFINE_STEPS}",
        f"training.ternarize.distil_steps={context.options.num_distil_steps}",
        f"training.ternarize.evaluation_tokens={EVAL_TOKENS // 2}",
    ]
    summary = _run_stage("1.5", context, settings, lambda: _show_calibration(context, line))
    line.update(note=f"held-out loss {summary['first_loss']:.2f} → {summary['last_loss']:.2f}")
    blocks = read_json(context.run_folder("stage1_5") / "blocks.json")
    return summary | {"block_errors": [[row["stream_solved"], row["stream"]] for row in blocks]}


def _run_stage(
    stage: str, context: Context, settings: list[str], on_poll: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Runs a stage of the trainer with further overrides; returns its summary."""
    name, hydra_option = STAGES[stage]
    overrides = [f"training={hydra_option}", *_common_overrides(context), *settings]
    child = Child(f"stage {stage}", [*script_command("train"), *overrides], context.log(name))
    run_child(child, on_poll=on_poll)
    summary: dict[str, Any] = read_json(context.run_folder(name) / "summary.json")
    return summary


def _common_overrides(context: Context) -> list[str]:
    """Hydra overrides of every stage. A packaged model keeps its name; others are folders by now."""
    is_packaged = context.options.source is Source.packaged
    sources = [f"{{kind:path,name:text,location:{_quoted(str(context.train_text))}}}"]
    if context.speaks_chatml:
        sources.append("{kind:packaged,name:chat}")
    return [
        f"experiment={EXPERIMENT}",
        f"output_dir={_quoted(str(context.folder / 'checkpoints'))}",
        "model=smollm2_135m",
        *([] if is_packaged else ["model.source=path", f"model.name={_quoted(str(context.teacher))}"]),
        f"model.scheme={SCHEME}",
        "model.sub_norm=false",
        f"data.sources=[{','.join(sources)}]",
        "logging.progress_bar=none",
    ]


def _quoted(text: str) -> str:
    """A string of Hydra's override grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _show_calibration(context: Context, line: StepLine) -> None:
    folder = context.run_folder("stage1_5")
    if rows := read_metrics(folder):
        last = rows[-1]
        divergence = last.get("train/divergence", float("nan"))
        line.update(last["step"], context.options.num_distil_steps, f"{divergence:.2f} nats apart")
    else:
        done = len(list((folder / "parts").glob("model.layers.*")))
        line.update(note=f"{done} blocks")


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
    command = [*script_command("export"), "--checkpoint", str(context.checkpoint("stage1_5"))]
    command += ["--output", str(context.gguf), "--format", "gguf", "--type", "auto"]
    command += ["--embeddings", "q8_0", "--overwrite"]
    run_child(Child("export", command, context.log("export")))
    size = context.gguf.stat().st_size
    line.update(note=f"{size / 1e6:.1f} MB")
    return {"bytes": size}


def prove_export(context: Context, line: StepLine) -> dict[str, Any]:
    command = [*script_command("verify"), "--checkpoint", str(context.checkpoint("stage1_5"))]
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
        from wf_quickstart.gguf_sizes import gguf_sizes
        from wf_quickstart.llamacpp import serving, try_model

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
