"""A stock vLLM, started as `wf serve --engine vllm` does, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import bitnet_arch
from wf_converter.hf_export import HfExport
from wrinklefree_inference.options import VllmOptions, VllmServerOptions
from wrinklefree_inference.stock.programs import VLLM
from wrinklefree_inference.stock.server import StockServer, start_server


def exported(model: Any, source: Path, prepare: Callable[[Path], HfExport], folder: Path) -> Path:
    """The folder that a converted model is exported to; its tokenizer is that of `source`."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    bitnet_arch.save_checkpoint(model, tokenizer, folder / "checkpoint", {"stage": "stage1"})
    prepare(folder / "checkpoint").write(folder / "export")
    return folder / "export"


@contextmanager
def running(folder: Path, environment: Path) -> Iterator[StockServer]:
    """A server of an exported folder, until the block is left."""
    server = start_server(VLLM, VllmServerOptions(folder, engine=VllmOptions(256, 2, environment)))
    try:
        yield server
    finally:
        server.close()


def ask(server: StockServer, **fields: Any) -> dict[str, Any]:
    """The choice of one completion."""
    asked = {"model": server.model_id, "temperature": 0, "ignore_eos": True} | fields
    headers = {"Authorization": f"Bearer {server.key}"}
    url = f"{server.kept.url}/v1/completions"
    answer = httpx.post(url, json=asked, headers=headers, timeout=600, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def log_probs(server: StockServer, prompt: list[int]) -> list[float]:
    """Of the tokens of a prompt but the first."""
    entries = ask(server, prompt=prompt, max_tokens=1, prompt_logprobs=0)["prompt_logprobs"]
    return [entry[str(token)]["logprob"] for entry, token in zip(entries, prompt, strict=True) if entry]
