"""Every preset of a model has defaults with which it can be exported and served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wf_formats.families.support import TARGETS, support
from wrinklefree.compose.composing import compose_config

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "packages" / "converter" / "tests" / "configs"
MODELS = {
    "smollm2_135m": "smollm2",
    "smollm2_360m": "smollm2",
    "smollm2_1_7b": "smollm2",
    "qwen3_0_6b": "qwen3",
    "qwen3_4b": "qwen3",
    "llama3_2_1b": "llama3_2",
}
"""The configuration (of its keys and kinds, not its size) that a preset's model has."""


def test_every_preset_is_listed():
    assert {path.stem for path in (ROOT / "configs" / "model").glob("*.yaml")} == MODELS.keys()


@pytest.mark.parametrize("preset", MODELS)
def test_defaults_of_a_preset_work_end_to_end(preset):
    model = compose_config(["training=stage2_pretrain", f"model={preset}"]).model
    config = json.loads((PUBLISHED / f"{MODELS[preset]}.json").read_text())
    assert support(config, model.scheme, model.sub_norm) == dict.fromkeys(TARGETS)
