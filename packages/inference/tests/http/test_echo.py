"""`echo` of a real server beside the engine's own scores, and lm-eval's likelihood requests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
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


@pytest.mark.slow
def test_likelihoods_as_lm_eval_asks_for_and_reads_them(url: str, scored: tuple[list[int], TokenScores]):
    """Its own request and its own reading; its client wants a package that is not here."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI as Api

    ids, scores = scored
    payload = Api._create_payload(SimpleNamespace(model="two-layers"), [ids[:40], ids[:9]], seed=1)
    answer = httpx.post(f"{url}/completions", json=payload, trust_env=False).json()
    found = Api.parse_logprobs(answer, ctxlens=[30, 4])
    for (value, is_greedy), (start, stop) in zip(found, [(30, 40), (4, 9)], strict=True):
        assert value == pytest.approx(scores.logprobs[start - 1 : stop - 1].sum(), abs=1e-3)
        assert is_greedy == bool(scores.is_greedy[start - 1 : stop - 1].all())
