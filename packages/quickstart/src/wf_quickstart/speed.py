"""Speed of GGUF files, measured by the `bench` command of the inference application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wf_formats.json_file import read_value
from wf_quickstart.children import Child, python, run_child
from wf_quickstart.context import Context
from wf_quickstart.display import StepLine
from wf_quickstart.errors import QuickstartError

PROMPT_TOKENS = 128
GENERATED_TOKENS = 64
_REPEATS = 3


def compare_engines(context: Context, line: StepLine) -> dict[str, Any]:
    """{"native": {"prompt_tokens_per_s", "generation_tokens_per_s"}, "llamacpp": the same, "kernels"}.

    Raises:
        QuickstartError: The native engine refuses the export; the log says why.
    """
    log = context.log("engines")
    found = _bench("speed of the native engine", context.gguf, context.engine_speeds, log, "native")
    speeds = {name: _speeds(engine) for name, engine in found.items() if engine["error"] is None}
    show_speed(line, speeds["native"])
    return {**speeds, "kernels": found["native"]["kernels"]["isa"]}


def llamacpp_speed(title: str, gguf: Path, output: Path, log: Path) -> dict[str, float]:
    """{"prompt_tokens_per_s", "generation_tokens_per_s"} in llama.cpp.

    Raises:
        QuickstartError: llama.cpp refuses the file; the log says why.
    """
    return _speeds(_bench(title, gguf, output, log, "llamacpp")["llamacpp"])


def show_speed(line: StepLine, speeds: dict[str, float]) -> None:
    line.update(
        note=f"prompt {speeds['prompt_tokens_per_s']:.0f}, generation "
        f"{speeds['generation_tokens_per_s']:.0f} tokens/s"
    )


def _bench(title: str, gguf: Path, output: Path, log: Path, engine: str) -> dict[str, Any]:
    """What `bench` found out, by engine; llama.cpp is measured beside the native one."""
    command = python("wrinklefree_inference", "bench", "--engine", engine, "--model", str(gguf))
    command += ["--prompt-tokens", str(PROMPT_TOKENS), "--generate-tokens", str(GENERATED_TOKENS)]
    command += ["--repeats", str(_REPEATS), "--batch", "1", "--json", str(output)]
    output.parent.mkdir(exist_ok=True)
    run_child(Child(title, command, log))
    engines: dict[str, Any] = read_value(output, QuickstartError)["engines"]
    return engines


def _speeds(engine: dict[str, Any]) -> dict[str, float]:
    tests = engine["tests"]
    return {
        "prompt_tokens_per_s": tests[f"pp{PROMPT_TOKENS}"]["tokens_per_s"],
        "generation_tokens_per_s": tests[f"tg{GENERATED_TOKENS}"]["tokens_per_s"],
    }
