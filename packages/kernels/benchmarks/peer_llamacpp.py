"""Speed of llama.cpp (inside xllamacpp) on GGUF files, as llama-bench measures it: the peer of our figures.

    python packages/kernels/benchmarks/peer_llamacpp.py b-tq2_0.gguf b-tq1_0.gguf --generate-tokens 32

Each file is measured in a process of its own by llama.cpp's batch calls (llama_decode's successor), without
HTTP and without sampling but argmax: a prompt from an empty cache, then greedy tokens after a short prompt;
a short warm-up first, the median of the repeats. Prints JSON with every run, hardware, commit and versions.
The measuring is that of `python -m wrinklefree_inference bench`, started as a process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def measure(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What `bench --json` writes."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        numbers = {
            "--prompt-tokens": options.prompt_tokens,
            "--generate-tokens": options.generate_tokens,
            "--repeats": options.repeats,
            "--batch": options.batch,
            "--threads": options.threads,
        }
        flags = [part for flag, value in numbers.items() if value for part in (flag, str(value))]
        command = [sys.executable, "-m", "wrinklefree_inference", "bench", "--engine", "llamacpp"]
        subprocess.run(
            [*command, "--model", str(model), "--json", str(result), *flags], check=True, stdout=sys.stderr
        )
        measured: dict[str, Any] = json.loads(result.read_text())
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="GGUF")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--generate-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", default="1", help="parallel sequences, with commas between")
    parser.add_argument("--threads", type=int, help="all cores if not given")
    options = parser.parse_args()
    print(json.dumps([measure(model, options) for model in options.models], indent=2))


if __name__ == "__main__":
    main()
