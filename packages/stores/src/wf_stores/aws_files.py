"""What ~/.aws/credentials and ~/.aws/config say for the profile in use; obstore reads the environment alone.

The environment's keys come first, as in Amazon's own tools. Web identities, containers and the machine's own
role are obstore's to find. A variable that is empty counts as unset, as scripts and containers mean it;
botocore and obstore take it for a value: a profile, a region or a session token of no letters.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wf_formats.errors import RequestError
from wf_stores.location import check_server

_KEYS = {
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
}
_OF_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def endpoint() -> str | None:
    """The server to ask instead of Amazon's: of the environment, else of the profile.

    Raises: RequestError for what is no server.
    """
    found = _variable(_ENDPOINTS) or _profile().get("endpoint_url")
    if found is not None:
        check_server(found, next((name for name in _ENDPOINTS if os.environ.get(name)), "endpoint_url"))
    return found


def s3_settings() -> dict[str, str]:
    """Arguments of obstore's S3Store that the environment does not give it.

    Raises: RequestError for a profile that is not there, or a file that is none of Amazon's.
    """
    profile = _profile()
    settings: dict[str, str] = {}
    if not _variable(_OF_ENVIRONMENT):
        settings |= {name: profile[key] for name, key in _KEYS.items() if key in profile}
    if not _variable(_REGIONS) and "region" in profile:
        settings["region"] = profile["region"]
    if (server := endpoint()) is not None:
        settings["endpoint"] = server
    return settings


@contextmanager
def without_empty_variables() -> Iterator[None]:
    """For obstore, which reads the environment when a store is made."""
    empty = [name for name, value in os.environ.items() if name.startswith("AWS_") and not value]
    for name in empty:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(dict.fromkeys(empty, ""))


def _variable(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _profile() -> dict[str, str]:
    """Values of both files; empty where there are none."""
    chosen = os.environ.get("AWS_PROFILE")
    name = chosen or "default"
    credentials = _section("AWS_SHARED_CREDENTIALS_FILE", "credentials", name)
    config = _section("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}")
    if chosen and credentials is None and config is None:
        raise RequestError(f"AWS_PROFILE={name}: ~/.aws has no such profile; check the name, or unset it")
    return (config or {}) | (credentials or {})


def _section(variable: str, file_name: str, section: str) -> dict[str, str] | None:
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / file_name)
    if not path.is_file():
        return None
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(path.read_text())
    except (configparser.Error, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is damaged; write it as Amazon's tools do") from error
    return dict(parser.items(section)) if parser.has_section(section) else None
