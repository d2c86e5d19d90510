"""Sample answers of a GGUF file: greedy, in llama.cpp, by the `chat` command of the inference application."""

from __future__ import annotations

from pathlib import Path

from wf_quickstart.children import Child, python, run_child
from wf_quickstart.context import Context

PROMPTS = (
    "Why is the sky blue?",
    "What does the return statement do in Python?",
    "Write one sentence about the sea.",
)
ANSWER_TOKENS = 48


def answer(context: Context, name: str, gguf: Path, index: int) -> dict[str, str]:
    """The answer to PROMPTS[index] as {"prompt", "answer"}.

    Raises:
        QuickstartError: llama.cpp refuses the file; the log says why.
    """
    command = python("wrinklefree_inference", "chat", "--engine", "llamacpp", "--model", str(gguf))
    command += ["--prompt", PROMPTS[index], "--max-tokens", str(ANSWER_TOKENS), "--temperature", "0"]
    output = context.llamacpp(f"{name}-{index}.txt")
    log = context.log(f"llamacpp_{name}_answer_{index}")
    run_child(Child(f"answer {index + 1} of the {name}", command, log, output))
    return {"prompt": PROMPTS[index], "answer": output.read_text(encoding="utf-8").strip()}
