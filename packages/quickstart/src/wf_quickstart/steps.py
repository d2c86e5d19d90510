"""The other steps of a quickstart. Each runs a child process or two and returns figures for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wf_formats.atomic import atomic_write_json
from wf_formats.json_file import read_value
from wf_formats.packaged import ModelSource
from wf_quickstart.answers import PROMPTS, answer
from wf_quickstart.children import Child, python, run_child
from wf_quickstart.context import Context
from wf_quickstart.display import StepLine
from wf_quickstart.errors import QuickstartError
from wf_quickstart.gguf_sizes import gguf_sizes
from wf_quickstart.speed import GENERATED_TOKENS, PROMPT_TOKENS, llamacpp_speed, show_speed
from wf_quickstart.text import python_reference, user_texts, write_corpus
from wf_quickstart.training import SCHEME

EVAL_TOKENS, ROUGH_EVAL_TOKENS = 16_384, 4_096
"""Rough: of what is a million times off; the time is better spent on the calibration."""
EVAL_CONTEXT_TOKENS = 1024
PROOF_TOKENS = 256

StepFunction = Callable[[Context, StepLine], dict[str, Any]]


def prepare_text(context: Context, line: StepLine) -> dict[str, Any]:
    texts = context.options.texts
    corpus = user_texts(texts) if texts else python_reference()
    figures = write_corpus(corpus, context.train_text, context.held_out_text)
    line.update(note=f"{figures['train_chars']:,} characters, {figures['held_out_chars']:,} held out")
    return dict(figures)


def find_model(context: Context, line: StepLine) -> dict[str, Any]:
    options = context.options
    if options.source is ModelSource.path:
        atomic_write_json(context.source_file, {"folder": options.name, "gguf": None})
    else:
        context.source_file.parent.mkdir(exist_ok=True)
        name = [] if options.name is None else [options.name]
        command = python("wf_quickstart.fetch_model", str(context.source_file), str(options.source), *name)
        run_child(Child(f"get {options.model_label}", command, context.log("model")))
    line.update(note=options.model_label)
    return {"folder": str(context.teacher), "scheme": SCHEME}


def measuring_step(name: str, model: Callable[[Context], Path], num_tokens: int) -> StepFunction:
    """A step that measures the perplexity of a model on the first tokens of the held-out text."""

    def run(context: Context, line: StepLine) -> dict[str, Any]:
        output = context.folder / "eval" / f"{name}.json"
        command = python("wrinklefree_eval.evaluate", "--model-path", str(model(context)))
        command += ["--text", str(context.held_out_text), "--max-tokens", str(num_tokens)]
        command += ["--context", str(EVAL_CONTEXT_TOKENS), "--output", str(output)]
        run_child(Child(f"perplexity of {name}", command, context.log(f"eval_{name}")))
        found = read_value(output, QuickstartError)
        perplexity = found["perplexity"][0]["perplexity"]
        line.update(note=f"perplexity {perplexity:,.1f}")
        return {"model": found["model"], **found["perplexity"][0], "environment": found["environment"]}

    return run


def export_gguf(context: Context, line: StepLine) -> dict[str, Any]:
    context.gguf.parent.mkdir(exist_ok=True)
    command = python("wf_converter", "export", "--checkpoint", str(context.checkpoint(context.last_stage)))
    command += ["--output", str(context.gguf), "--format", "gguf", "--type", "auto"]
    command += ["--embeddings", "q8_0", "--overwrite"]
    run_child(Child("export", command, context.log("export")))
    size = context.gguf.stat().st_size
    line.update(note=f"{size / 1e6:.1f} MB")
    return {"bytes": size}


def prove_export(context: Context, line: StepLine) -> dict[str, Any]:
    command = python("wf_converter", "verify", "--checkpoint", str(context.checkpoint(context.last_stage)))
    command += ["--export", str(context.gguf), "--tokens", str(PROOF_TOKENS), "--json", str(context.proof)]
    context.proof.unlink(missing_ok=True)
    try:
        run_child(Child("proof of the export", command, context.log("proof")))
    except QuickstartError:
        if not context.proof.is_file():  # with the findings written, the report tells what is wrong
            raise
    proof: dict[str, Any] = read_value(context.proof, QuickstartError)
    line.update(note=f"mean |Δ log-prob| {proof['judged']['mean_abs_delta']:.5f} in {proof['runtime']}")
    return proof


def llamacpp_step(name: str, gguf: Callable[[Context], Path | None]) -> StepFunction:
    """A step that measures the speed of a GGUF file in llama.cpp and lets it answer PROMPTS."""

    def run(context: Context, line: StepLine) -> dict[str, Any]:
        path = gguf(context)
        if path is None:
            line.update(note="no GGUF file of this model is at hand: left out")
            return {}
        output, log = context.llamacpp(f"{name}.json"), context.log(f"llamacpp_{name}")
        speeds = llamacpp_speed(f"llama.cpp, {name}", path, output, log)
        answers = []
        for index in range(len(PROMPTS)):
            line.update(index + 1, len(PROMPTS) + 1)
            answers.append(answer(context, name, path, index))
        show_speed(line, speeds)
        tokens = {"prompt_tokens": PROMPT_TOKENS, "generated_tokens": GENERATED_TOKENS}
        sizes = asdict(gguf_sizes(path))
        return {"file": path.name, "sizes": sizes, **tokens, **speeds, "answers": answers}

    return run
