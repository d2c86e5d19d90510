"""What the workers of one gateway must have in common."""

from __future__ import annotations

import pytest

from wf_formats.errors import RequestError
from wrinklefree_inference.engines.openai_answers import ListedModel, Meta
from wrinklefree_inference.gateway.models import CommonModels


def listed(*models: tuple[str, int | None]) -> list[ListedModel]:
    return [ListedModel(id=name, max_model_len=tokens) for name, tokens in models]


def test_the_context_is_the_shortest() -> None:
    llama_cpp = [ListedModel(id="a", meta=Meta(n_ctx=300)), ListedModel(id="b")]
    common = CommonModels({"http://x": listed(("b", None), ("a", 500)), "http://y": llama_cpp})
    assert {name: card.get("max_model_len") for name, card in common.cards.items()} == {"a": 300, "b": None}


def test_another_model_is_refused_by_name() -> None:
    with pytest.raises(RequestError) as raised:
        CommonModels({"http://x": listed(("a", 1)), "http://y": listed(("b", 1), ("c\x1b", 1))})
    assert str(raised.value).startswith(r"http://y serves b, c\x1b, but http://x serves a: all workers of a ")


def test_a_server_without_a_model_is_refused() -> None:
    with pytest.raises(RequestError, match="http://x lists no model"):
        CommonModels({"http://x": []})
