"""Checkpoints that earlier versions wrote load and answer as they did."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bitnet_arch import CheckpointError, load_checkpoint

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["format1_tensor", "format1_group64"])
def test_format_1_answers_as_when_it_was_written(name: str) -> None:
    checkpoint = load_checkpoint(DATA / name)
    with torch.no_grad():
        logits = checkpoint.model(torch.arange(12)[None]).logits[0, -1]
    expected = torch.tensor(json.loads((DATA / name / "last_logits.json").read_text()))
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6)


def test_a_quantizer_that_is_not_installed_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(DATA / "format1_group64", tmp_path / "other")
    record = json.loads((folder / "wrinklefree.json").read_text())
    record["conversion"]["scheme"] = "nowhere7"
    (folder / "wrinklefree.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="unknown weight scheme 'nowhere7'; known: tensor"):
        load_checkpoint(folder)
