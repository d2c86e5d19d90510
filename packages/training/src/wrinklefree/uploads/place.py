"""Where a configuration says that checkpoints go; read without PyTorch."""

from __future__ import annotations

from wf_formats.errors import RequestError
from wf_stores import parse_location
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import GradientConfig


def upload_url(config: TrainConfig) -> str:
    """Empty where nothing is uploaded."""
    training = config.training
    return training.checkpoint.upload if isinstance(training, GradientConfig) else ""


def described_upload(config: TrainConfig) -> str | None:
    """The URL, or a path's whole name. Raises: ConfigError for what is neither."""
    if not (url := upload_url(config)):
        return None
    try:
        return str(parse_location(url))
    except RequestError as error:
        raise ConfigError(f"training.checkpoint.upload: {error}") from error
