"""A teacher on a server: this one answers on loopback as vLLM does, from the dense model itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from listening import listening

from wrinklefree.capture import Capture
from wrinklefree.compose.composing import compose_config
from wrinklefree.config.errors import ConfigError
from wrinklefree.predictions import DensePredictions, SparsePredictions
from wrinklefree_distillation.config import DISTILL
from wrinklefree_distillation.losses.chunked_divergence import Comparison, chunked_divergence
from wrinklefree_distillation.losses.divergences import forward
from wrinklefree_distillation.teachers.openai import OpenAITeacher, OpenAITeacherConfig

TOP_K = 7


@dataclass
class Server:
    model: Any
    tokenizer: Any
    url: str = ""
    answers_left: int = 10**9
    ids_given: int = TOP_K
    shift: int = 0

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/tokenize":
            ids = self.tokenizer.encode(body["prompt"], add_special_tokens=False)
            return {"tokens": [number + self.shift for number in ids]}
        prompt = body["prompt"]
        with torch.no_grad():
            logprobs = self.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        entries: list[Any] = [None]
        for row, token in zip(logprobs, prompt[1:], strict=False):
            chosen = {token, *row.topk(self.ids_given).indices.tolist()}
            entries.append({str(number): {"logprob": row[number].item()} for number in chosen})
        return {"choices": [{"text": "", "prompt_logprobs": entries}]}


@pytest.fixture
def server(dense_dir: Path) -> Iterator[Server]:
    served = Server(
        transformers.AutoModelForCausalLM.from_pretrained(dense_dir).eval(),
        transformers.AutoTokenizer.from_pretrained(dense_dir),
    )

    def answer(path: str, body: bytes) -> tuple[int, bytes] | None:
        served.answers_left -= 1
        if served.answers_left < 0:
            return None
        return 200, json.dumps(served.answer(path, json.loads(body))).encode()

    with listening(answer) as url:
        served.url = f"{url}/v1"
        yield served


def _options(server: Server) -> list[str]:
    keys = {"kind": "openai", "url": server.url, "model": "tiny", "top_k": TOP_K}
    return [*(f"model.teacher.{key}={value}" for key, value in keys.items()), "training.max_steps=5"]


def test_entries_are_the_predictions_before_them_within_a_document(server: Server) -> None:
    config = OpenAITeacherConfig(url=server.url, model="tiny", top_k=TOP_K)
    ids = torch.randint(0, 259, (1, 9))
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    teacher = OpenAITeacher.load(config, None)  # type: ignore[arg-type]
    found = teacher.forward(
        {"input_ids": ids, "position_ids": positions}, Capture(predictions=True)
    ).predictions
    assert isinstance(found, SparsePredictions)
    with torch.no_grad():
        second = server.model(ids[:, 5:]).logits[0].softmax(-1)
    for place in range(3):
        kept = found.weights[0, 5 + place] > 0
        expected = second[place][found.ids[0, 5 + place][kept]]
        torch.testing.assert_close(found.weights[0, 5 + place][kept], expected)
    assert not found.weights[0, [4, 8]].any()


def test_a_tail_of_no_ids_is_forward_kl_and_agreement_is_0() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(1, 3, 5), torch.randn(12, 5)
    how = Comparison(forward, 1.0, 2)
    p = (hidden @ head.T).softmax(-1)
    top = p.topk(4)
    agreeing = SparsePredictions(top.indices, top.values, has_tail=True)
    leaf = hidden.clone().requires_grad_()
    loss = chunked_divergence(leaf, head, agreeing, torch.arange(3), how).mean
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert leaf.grad is not None
    assert leaf.grad.abs().max() < 1e-6
    other = torch.randn(1, 3, 5)
    leaf = other.clone().double().requires_grad_()
    q = (leaf @ head.double().T).softmax(-1)
    q_top, tail = q.gather(-1, top.indices), 1 - top.values.double().sum(-1)
    rest = 1 - q_top.sum(-1)
    plain = (top.values * (top.values / q_top).log()).sum(-1) + tail * (tail / rest).log()
    plain.mean().backward()
    single = other.clone().requires_grad_()
    loss = chunked_divergence(single, head, agreeing, torch.arange(3), how).mean
    loss.backward()
    torch.testing.assert_close(loss.double(), plain.mean(), rtol=1e-4, atol=1e-5)
    assert leaf.grad is not None
    assert single.grad is not None
    torch.testing.assert_close(single.grad.double(), leaf.grad, rtol=1e-4, atol=1e-5)
    whole = SparsePredictions(torch.arange(12).expand(1, 3, 12), p, has_tail=True)
    dense = chunked_divergence(other, head, DensePredictions(hidden, head), torch.arange(3), how).mean
    torch.testing.assert_close(chunked_divergence(other, head, whole, torch.arange(3), how).mean, dense)


def test_a_run_goes_on_to_the_bit_after_the_server_stopped(
    distil: Any, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*_options(server), "training.checkpoint.every_steps=1"]
    whole = distil(*options, experiment="whole")
    assert whole.code == 0
    server.answers_left = 9
    stopped = distil(*options, experiment="again")
    assert stopped.code == 1
    message = capsys.readouterr().err
    assert f"the teacher's server {server.url} (model.teacher.url)" in message
    assert "goes on from the newest checkpoint" in message
    assert list((stopped.folder / "checkpoints").iterdir())
    server.answers_left = 10**9
    again = distil(*options, experiment="again")
    assert again.code == 0
    assert again.rows == whole.rows
    assert again.weights == whole.weights


def test_a_server_without_a_models_name_is_refused_when_composed() -> None:
    with pytest.raises(ConfigError, match=r"needs the server's name of the model: model.teacher.model=NAME"):
        compose_config(["student.checkpoint_path=x", "model.teacher.kind=openai"], DISTILL)


def test_missing_entries_and_other_tokens(
    distil: Any, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ids_given = TOP_K - 2
    assert distil(*_options(server), experiment="few").code == 1
    assert f"of top_k={TOP_K} ids" in capsys.readouterr().err
    server.ids_given, server.shift = TOP_K, 1
    assert distil(*_options(server), experiment="other").code == 1
    assert "has another tokenizer" in capsys.readouterr().err
    layers = "training.objectives.attention_distill={}"
    assert distil(*_options(server), layers, experiment="layers").code == 1
    assert "model.teacher.kind=openai does not give" in capsys.readouterr().err
