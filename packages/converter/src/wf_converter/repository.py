"""Names of repositories of the hub, by the hub's own rule."""

from __future__ import annotations

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # re-exported, unsaid


def id_fault(name: str) -> str | None:
    """Why a name (of a model or a data set, with its owner or without) cannot be one; None where it can."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        return " ".join(str(error).split())
    return None
