"""How a model is meant to be sampled: generation_config.json, kept as it came through every stage.

transformers refuses to write settings that it finds contradictory (a temperature without do_sample, as
Llama 2 has); they are the model's, so they are written as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from bitnet_arch.errors import CheckpointError
from wf_formats.file_names import GENERATION_CONFIG_FILE
from wf_formats.json_file import read_json


def take_generation_config(model: Any, folder: Path) -> None:
    """Gives the model the folder's settings; without a file it keeps what its config.json implies.

    Raises:
        CheckpointError: the file is damaged or holds something else.
    """
    path = folder / GENERATION_CONFIG_FILE
    if not path.is_file():
        return
    settings = read_json(path, CheckpointError)
    try:
        model.generation_config = transformers.GenerationConfig.from_dict(settings)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def write_generation_config(model: Any, folder: Path) -> None:
    """Writes the model's settings; a model without any leaves no file."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        config.to_json_file(folder / GENERATION_CONFIG_FILE)
