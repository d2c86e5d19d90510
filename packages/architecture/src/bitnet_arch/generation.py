"""How a model is meant to be sampled: generation_config.json, kept as it came through every stage.

transformers refuses to write settings that it finds contradictory (a temperature without do_sample, as
Llama 2 has); they are the model's, so they are written as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from bitnet_arch.errors import CheckpointError
from wf_formats.errors import LoadError
from wf_formats.file_names import GENERATION_CONFIG_FILE
from wf_formats.generation import read_generation


def generation_config(folder: Path, vocab_size: int | None) -> Any:
    """The folder's settings as transformers has them; None without a file.

    Args:
        vocab_size: rows of the embedding matrix; None where they are not known.

    Raises:
        CheckpointError: the file is damaged, or holds a value that cannot be.
    """
    try:
        settings = read_generation(folder, vocab_size)
        return None if settings is None else transformers.GenerationConfig.from_dict(settings)
    except LoadError as error:
        raise CheckpointError(str(error)) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / GENERATION_CONFIG_FILE}: {error}") from error


def write_generation_config(model: Any, folder: Path) -> None:
    """Writes the model's settings; a model without any leaves no file."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        config.to_json_file(folder / GENERATION_CONFIG_FILE)
