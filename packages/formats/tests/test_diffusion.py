"""What a config says of block diffusion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wf_formats.diffusion import SETTINGS_KEY, BlockDiffusion, exclude_token
from wf_formats.errors import LoadError


def test_settings_come_back_from_json() -> None:
    settings = BlockDiffusion(block_size=8, mask_token_id=17, token_shift=False)
    stored = json.loads(json.dumps({"model_type": "llama", SETTINGS_KEY: settings.to_settings()}))
    assert BlockDiffusion.from_settings(stored) == settings


def test_an_autoregressive_config_has_none() -> None:
    assert BlockDiffusion.from_settings({"model_type": "llama"}) is None


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"block_size": 0, "mask_token_id": 1}, "block_size is 0"),
        ({"block_size": True, "mask_token_id": 1}, "block_size is True"),
        ({"block_size": 4, "mask_token_id": -1}, "mask_token_id is -1"),
        ({"block_size": 4, "mask_token_id": "x"}, "mask_token_id is 'x'"),
        ({"block_size": 4, "mask_token_id": 1, "token_shift": 1}, "token_shift is 1"),
        ({"block_size": 4}, "its entries are block_size, mask_token_id, token_shift"),
        ({"block_size": 4, "mask_token_id": 1, "steps": 3}, "steps"),
        ([4, 1], "not an object"),
        ("x", "not an object"),
    ],
)
def test_other_entries_are_refused_by_name(entries: Any, named: str) -> None:
    with pytest.raises(LoadError, match=named):
        BlockDiffusion.from_settings({SETTINGS_KEY: entries})


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_token_is_given_no_probability(kind: str) -> None:
    module = pytest.importorskip(kind)
    logits = module.zeros((2, 3, 4))
    exclude_token(logits, 2)
    assert module.exp(logits).sum() == 18
    assert (logits[..., 2] == -module.inf).all()
