"""Speed of the exported model in the native engine beside llama.cpp: `wf bench`, both in turns."""

from __future__ import annotations

from typing import Any

from wf_deployer.files import read_json
from wf_deployer.workspace import module_command
from wf_quickstart.children import Child, run_child
from wf_quickstart.display import StepLine
from wf_quickstart.steps import Context

PROMPT_TOKENS = 128
GENERATED_TOKENS = 64
_REPEATS = 3


def compare_engines(context: Context, line: StepLine) -> dict[str, Any]:
    """{"native": {"prompt_tokens_per_s", "generation_tokens_per_s"}, "llamacpp": the same, "kernels"}.

    Raises:
        CommandError: The native engine refuses the export; the log says why.
    """
    output = context.gguf.with_name("speed.json")
    command = [*module_command("wrinklefree_inference"), "bench", "--model", str(context.gguf)]
    command += ["--prompt-tokens", str(PROMPT_TOKENS), "--generate-tokens", str(GENERATED_TOKENS)]
    command += ["--repeats", str(_REPEATS), "--batch", "1", "--json", str(output)]
    run_child(Child("speed of the native engine", command, context.log("engines")))
    found = read_json(output)["engines"]
    speeds = {name: _speeds(engine["tests"]) for name, engine in found.items() if engine["error"] is None}
    native = speeds["native"]
    line.update(
        note=f"prompt {native['prompt_tokens_per_s']:.0f}, generation "
        f"{native['generation_tokens_per_s']:.0f} tokens/s"
    )
    return {**speeds, "kernels": found["native"]["kernels"]["isa"]}


def _speeds(tests: dict[str, Any]) -> dict[str, float]:
    return {
        "prompt_tokens_per_s": tests[f"pp{PROMPT_TOKENS}"]["tokens_per_s"],
        "generation_tokens_per_s": tests[f"tg{GENERATED_TOKENS}"]["tokens_per_s"],
    }
