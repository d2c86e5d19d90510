"""What can be made of a model at the end, said at the beginning: exported how, served by what."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from wf_formats.families.support import support
from wf_formats.schemes import GROUP_SIZES
from wrinklefree.config.errors import ConfigError

LOG = logging.getLogger("wrinklefree")
_TARGETS = {
    "gguf": "export to GGUF",
    "hf": "export to a Hugging Face folder",
    "native": "the native engine",
    "llamacpp": "llama.cpp",
}
_EXPORTS = ("gguf", "hf")


def check_prospects(settings: Mapping[str, Any], scheme: str, sub_norm: bool, allow_unservable: bool) -> None:
    """Logs a line for each target and refuses a model that none can take.

    Args:
        settings: contents of the dense model's config.json.
        scheme: what shares a scale; that of another package is nobody's here to judge.

    Raises:
        ConfigError: every target is closed, and model.allow_unservable is not set.
    """
    if scheme not in GROUP_SIZES:
        LOG.warning("model.scheme=%s is not one of ours: nothing here exports or serves it", scheme)
        return
    found = support(settings, scheme, sub_norm)
    for target, reason in found.items():
        LOG.info("%s: %s", _TARGETS[target], "works" if reason is None else f"no, {reason}")
    if all(reason is not None for reason in found.values()) and not allow_unservable:
        raise ConfigError(
            f"model.scheme={scheme} model.sub_norm={str(sub_norm).lower()} gives a model that nothing here "
            f"exports or serves. {_TARGETS['gguf']}: {found['gguf']}. To train it all the same: "
            "model.allow_unservable=true"
        )
    if all(found[target] is not None for target in _EXPORTS):
        LOG.warning("the trained model will not be exportable (reasons above)")
