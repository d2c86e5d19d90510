"""The dense model that an export comes from: what it is called on the hub, its licence and languages.

packaged   known
hub        by its card: the cache's, else (where the hub is asked anyway) the hub's
path       by the README.md in its folder, if that is still there; the folder's place is nobody's business
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wf_converter.card_record import BaseModel, License
from wf_converter.repository import id_fault
from wf_formats.file_names import CARD_FILE
from wf_formats.packaged import PACKAGED_MODEL, PACKAGED_REPOSITORY, ModelSource

PACKAGED_LICENSE = "apache-2.0"
_PACKAGED_LANGUAGES = ("en",)


@dataclass(frozen=True)
class Origin:
    """What is known of it."""

    base: BaseModel | None = None
    license: License | None = None
    languages: list[str] = field(default_factory=list)


def origin_of(record: dict[str, Any], ask_hub: bool) -> Origin:
    """Args:
    record: the trainer's of the model source, {"source": "hub", "name": ...}; empty where there is none.
    ask_hub: whether a card that is not in the cache is fetched.
    """
    source, name, revision = (record.get(key) for key in ("source", "name", "revision"))
    if source == ModelSource.packaged:
        base = BaseModel(source, PACKAGED_MODEL, PACKAGED_REPOSITORY)
        return Origin(base, License(PACKAGED_LICENSE), list(_PACKAGED_LANGUAGES))
    if not isinstance(name, str):
        return Origin()
    if source == ModelSource.hub and id_fault(name) is None:
        revision = revision if isinstance(revision, str) else None
        card = _hub_card(name, revision, ask_hub)
        return Origin(BaseModel(source, name, name, revision), *_told_by(card))
    if source == ModelSource.path:
        return Origin(BaseModel(source, Path(name).resolve().name), *_told_by(Path(name) / CARD_FILE))
    return Origin()


def _hub_card(repository: str, revision: str | None, ask_hub: bool) -> Path | None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    cached = huggingface_hub.try_to_load_from_cache(repository, CARD_FILE, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    if not ask_hub:
        return None
    try:
        return Path(huggingface_hub.hf_hub_download(repository, CARD_FILE, revision=revision))
    except (HfHubHTTPError, EntryNotFoundError):  # gated, gone, without a card: the licence is asked for
        return None


def _told_by(card: Path | None) -> tuple[License | None, list[str]]:
    """Licence and languages of a card's front matter."""
    text = card.read_text(encoding="utf-8", errors="replace") if card is not None and card.is_file() else ""
    values = front_matter_of(text)
    license, languages = values.get("license"), values.get("language")
    named = [languages] if isinstance(languages, str) else languages
    known = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    if not isinstance(license, str):
        return None, known
    name, link = (values.get(f"license_{key}") for key in ("name", "link"))
    return License(license, *(text if isinstance(text, str) else None for text in (name, link))), known


def front_matter_of(card: str) -> dict[str, Any]:
    """Values at the top of a card; none where there are none, or none that can be read."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK
    from yaml import YAMLError, safe_load

    block = REGEX_YAML_BLOCK.search(card)
    try:
        values = safe_load(block[2]) if block else None
    except (YAMLError, RecursionError):  # of others, and nothing depends on it: the licence is then asked for
        return {}
    return values if isinstance(values, dict) else {}
