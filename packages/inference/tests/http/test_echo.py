"""`echo` of a real server beside the engine's own scores, and lm-eval's likelihood requests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from wrinklefree_inference import open_engine
from wrinklefree_inference.engines.base import TokenScores


@pytest.fixture(scope="module")
def url(serve: Callable[..., tuple[subprocess.Popen[str], str]], ternary_gguf: Path) -> str:
    return serve("--model", str(ternary_gguf), "--threads", "1", "--context", "512")[1]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def scored(ternary_gguf: Path) -> tuple[list[int], TokenScores]:
    """Ids of a text longer than a step of the scheduler, and their scores by the engine itself."""
    with open_engine(str(ternary_gguf)) as engine:
        ids = engine.tokenize("The quick brown fox, naïve café — 日本語. " * 20)
        return ids, engine.score(ids)


def test_echo_tells_the_prompts_log_probabilities(
    client: openai.OpenAI, scored: tuple[list[int], TokenScores]
):
    ids, scores = scored
    assert len(ids) > 256
    ask = {"model": "two-layers", "prompt": ids, "max_tokens": 2, "temperature": 0, "logprobs": 2}
    client.completions.create(**ask)  # its pages are in the cache, and of no use below
    reply = client.completions.create(**ask, echo=True)
    choice, found = reply.choices[0], reply.choices[0].logprobs
    assert reply.usage.prompt_tokens == len(ids)
    assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
    assert len(found.tokens) == len(ids) + 2
    assert found.token_logprobs[1 : len(ids)] == pytest.approx(scores.logprobs.tolist(), abs=1e-4)
    is_best = [
        value == max(top.values())
        for value, top in zip(found.token_logprobs, found.top_logprobs, strict=True)
        if top
    ]
    assert is_best[: len(ids) - 1] == scores.is_greedy.tolist()
    assert choice.text.startswith("The quick brown fox, naïve café — 日本語. The")
    starts = found.text_offset
    rebuilt = [choice.text[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    assert "".join(rebuilt) == choice.text
    pieces = [chunk.choices[0] for chunk in client.completions.create(**ask, echo=True, stream=True)]
    assert "".join(piece.text for piece in pieces) == choice.text
    assert [x for piece in pieces for x in piece.logprobs.token_logprobs] == found.token_logprobs


def test_echo_of_text_alone(client: openai.OpenAI):
    prompt = "Once upon a time"
    reply = client.completions.create(model="two-layers", prompt=prompt, max_tokens=1, echo=True)
    assert reply.choices[0].text.startswith(prompt)
    assert reply.choices[0].logprobs is None


def test_the_prompt_alone(client: openai.OpenAI, scored: tuple[list[int], TokenScores]):
    """As evaluations ask for it that want no answer: nothing is drawn, and a full context is no fault."""
    ids, scores = scored
    prompts = [ids[:40], (ids * 4)[:512]]
    ask = {"model": "two-layers", "prompt": prompts, "max_tokens": 0, "echo": True, "logprobs": 1}
    reply = client.completions.create(**ask)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (552, 0)
    assert [choice.finish_reason for choice in reply.choices] == ["length"] * 2
    found = [choice.logprobs.token_logprobs for choice in reply.choices]
    assert [len(each) for each in found] == [40, 512]
    assert found[0][1:] == pytest.approx(scores.logprobs[:39].tolist(), abs=1e-4)
    pieces = [chunk.choices[0] for chunk in client.completions.create(**ask, stream=True)]
    assert [x for piece in pieces if piece.index == 1 for x in piece.logprobs.token_logprobs] == found[1]


@pytest.mark.slow
def test_a_likelihood_task_of_lm_eval(url: str, ternary_gguf: Path, packaged_model_dir: Path, tmp_path: Path):
    """lm-eval's own client, `local-completions`: the scores that it reads are the engine's."""
    import lm_eval

    data, choices = tmp_path / "data.jsonl", [" mat", " the sofa", " Zürich"]
    questions = ["The cat sat on the", "Die Katze saß auf", "A long text." * 20]
    rows = [{"question": text, "choices": choices, "gold": number} for number, text in enumerate(questions)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "sofa",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    model = {"base_url": f"{url}/completions", "model": "two-layers", "tokenizer": str(packaged_model_dir)}
    outcome = lm_eval.simple_evaluate("local-completions", model, tasks=[task], batch_size=2)
    samples = sorted(outcome["samples"]["sofa"], key=lambda sample: sample["doc"]["gold"])
    assert len(samples) == 3
    with open_engine(str(ternary_gguf)) as engine:
        for sample, question in zip(samples, questions, strict=True):
            for (value, is_greedy), choice in zip(sample["filtered_resps"], choices, strict=True):
                ids = engine.tokenize(question + choice)
                scores = engine.score(ids, len(engine.tokenize(question)))
                assert value == pytest.approx(float(scores.logprobs.sum()), abs=1e-3)
                assert is_greedy == bool(scores.is_greedy.all())
