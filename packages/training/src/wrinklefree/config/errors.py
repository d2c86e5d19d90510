"""The error of a wrong configuration."""

from wf_formats.errors import UserError


class ConfigError(UserError, ValueError):
    """The configuration names something that does not exist or does not fit."""

    exit_code = 2
    label = "configuration error"
