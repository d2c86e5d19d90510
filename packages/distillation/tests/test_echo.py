"""A teacher behind `wf serve`: log-probabilities of prompts by `echo`, through a forwarder that may stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from listening import listening

import bitnet_arch
from wrinklefree.capture import Capture
from wrinklefree.errors import RunError
from wrinklefree.predictions import SparsePredictions
from wrinklefree_distillation.echoed import names_of
from wrinklefree_distillation.options import PromptApi
from wrinklefree_distillation.teachers.openai import OpenAITeacher, OpenAITeacherConfig

TOP_K = 5


@pytest.fixture(scope="module")
def served(stage1: Path) -> Iterator[str]:
    """URL of a real server of the checkpoint that the student starts from; it ends with the tests."""
    command = [sys.executable, "-m", "wrinklefree_inference", "serve", "--model", str(stage1), "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert " at " in line, child.stderr and child.stderr.read()
        yield line.split(" at ")[1].split(" ")[0]
        child.terminate()


@dataclass
class Forwarder:
    """What is between: counts answers, and may change them."""

    target: str
    model: str
    url: str = ""
    answers_left: int = 10**9
    changes: dict[str, Any] = field(default_factory=dict)

    def answer(self, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.target}/completions", json=body, timeout=60, trust_env=False)

    def changed(self, answer: dict[str, Any]) -> dict[str, Any]:
        logprobs = answer["choices"][0]["logprobs"]
        for name, change in self.changes.items():
            logprobs[name] = change(logprobs[name])
        return answer


@pytest.fixture
def forwarder(served: str, stage1: Path) -> Iterator[Forwarder]:
    name = httpx.get(f"{served}/models", trust_env=False).json()["data"][0]["id"]
    forwarder = Forwarder(served, name)

    def answer(path: str, body: bytes) -> tuple[int, bytes] | None:
        forwarder.answers_left -= 1
        if forwarder.answers_left < 0:
            return None
        response = forwarder.answer(json.loads(body))
        if response.status_code != 200:
            return response.status_code, response.content
        return 200, json.dumps(forwarder.changed(response.json())).encode()

    with listening(answer) as url:
        forwarder.url = f"{url}/v1"
        yield forwarder


def _teacher(forwarder: Forwarder, tokenizer: Any, top_k: int = TOP_K) -> OpenAITeacher:
    config = OpenAITeacherConfig(url=forwarder.url, model=forwarder.model, api=PromptApi.echo, top_k=top_k)
    teacher = OpenAITeacher.load(config, None)  # type: ignore[arg-type]
    teacher.check_tokenizer(tokenizer)
    return teacher


def _view(text: bytes) -> dict[str, torch.Tensor]:
    """Two documents of bytes, which are the first 256 ids in some order."""
    ids = torch.tensor([list(text)])
    half = ids.shape[1] // 2
    positions = torch.tensor([[*range(half), *range(ids.shape[1] - half)]])
    return {"input_ids": ids, "position_ids": positions}


def test_entries_are_the_checkpoints_predictions(forwarder: Forwarder, stage1: Path) -> None:
    checkpoint = bitnet_arch.load_checkpoint(stage1, dtype=torch.float32)
    view = _view(bytes(range(60, 100)))
    teacher = _teacher(forwarder, checkpoint.tokenizer)
    found = teacher.forward(view, Capture(predictions=True)).predictions
    assert isinstance(found, SparsePredictions)
    with torch.no_grad():
        p = checkpoint.model.eval()(**view, use_cache=False).logits.softmax(-1)[0]
    for place in (0, 7, 18, 20, 38):
        kept = found.weights[0, place] > 0
        assert kept.sum() >= TOP_K
        ids = found.ids[0, place][kept]
        # The engine's head has fewer bits than the checkpoint's.
        torch.testing.assert_close(found.weights[0, place][kept], p[place][ids], rtol=2e-2, atol=1e-6)
        probable = {*p[place].topk(2 * TOP_K).indices.tolist(), view["input_ids"][0, place + 1].item()}
        assert set(ids.tolist()) <= probable
    assert not found.weights[0, [19, 39]].any()


def _options(forwarder: Forwarder) -> list[str]:
    keys = {
        "kind": "openai",
        "url": forwarder.url,
        "model": forwarder.model,
        "top_k": TOP_K,
        "api": "echo",
    }
    return [*(f"model.teacher.{key}={value}" for key, value in keys.items()), "training.max_steps=4"]


def test_a_run_goes_on_to_the_bit_after_the_server_stopped(
    distil: Any, forwarder: Forwarder, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*_options(forwarder), "training.checkpoint.every_steps=1"]
    whole = distil(*options, experiment="whole")
    assert whole.code == 0
    forwarder.answers_left = 9
    assert distil(*options, experiment="again").code == 1
    message = capsys.readouterr().err
    assert f"the teacher's server {forwarder.url} (model.teacher.url)" in message
    forwarder.answers_left = 10**9
    again = distil(*options, experiment="again")
    assert again.code == 0
    assert again.rows == whole.rows
    assert again.weights == whole.weights


CHANGES: list[tuple[dict[str, Any], str]] = [
    (
        {"token_logprobs": lambda x: [*x[:3], None, *x[4:]]},
        r"entry 3, of the prompt's token 63 \('.'\), is null",
    ),
    (
        {"token_logprobs": lambda x: [*x[:3], -9999.0, *x[4:]]},
        "entry 3, of the prompt's token 63, has the log-probability -9999.0 for token 63",
    ),
    ({"token_logprobs": lambda x: x[:5]}, "it tells 5 of the prompt's 20 tokens"),
    ({"top_logprobs": lambda x: [x[0], {}, *x[2:]]}, f"entry 1, .* has 1 of top_k={TOP_K} ids; lower"),
    ({"top_logprobs": lambda x: [x[0], {"�": -1.0}, *x[2:]]}, "no token of the student has as its text"),
    ({"tokens": lambda x: ["<s>", *x]}, "another tokenizer, or puts tokens of its own before the prompt"),
]


@pytest.mark.parametrize(("changes", "message"), CHANGES)
def test_what_is_missing_is_named(
    forwarder: Forwarder, stage1: Path, changes: dict[str, Any], message: str
) -> None:
    teacher = _teacher(forwarder, bitnet_arch.load_checkpoint(stage1).tokenizer)
    forwarder.changes = changes
    with pytest.raises(RunError, match=message):
        teacher.forward(_view(bytes(range(60, 100))), Capture(predictions=True))


def test_more_ids_than_the_server_gives(
    distil: Any, forwarder: Forwarder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distil(*_options(forwarder), "model.teacher.top_k=6").code == 1
    assert "it answers 400" in (message := capsys.readouterr().err)
    assert "logprobs" in message


def test_names_of_half_characters(stage1: Path) -> None:
    names = names_of(bitnet_arch.load_checkpoint(stage1).tokenizer)
    assert "bytes:\\xe2" in names
    assert len(names) == len(set(names))
