"""The error of a wrong configuration."""


class ConfigError(ValueError):
    """The configuration names something that does not exist or does not fit."""
