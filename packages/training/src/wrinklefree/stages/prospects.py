"""What can be made of a model at the end, said at the beginning: exported how, served by what.

The rules are those of the exports and the engines themselves, asked of the configuration
(`wf_formats.families.support`) and of the tokenizer as the checkpoints will hold it
(`wf_formats.tokenizer.support`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bitnet_arch.model_tokenizer import save_tokenizer
from wf_formats.families.support import TARGETS, support
from wf_formats.schemes import FULL_PRECISION, PHASE_SCHEMES, SCHEMES
from wf_formats.tokenizer.support import tokenizer_support
from wrinklefree.config.errors import ConfigError

LOG = logging.getLogger("wrinklefree")
_TARGETS = {
    "gguf": "export to GGUF",
    "hf": "export to a Hugging Face folder",
    "native": "the native engine",
    "llamacpp": "llama.cpp",
}
_EXPORTS = ("gguf", "hf")
_CHOICES = (("group64", False), ("tensor", True))
"""Scheme and SubLN that exports know."""


@dataclass(frozen=True)
class Targets:
    """The model that a run would make.

    settings: the dense model's config.json as transformers understands it; scheme: what shares a scale.
    """

    settings: Mapping[str, Any]
    tokenizer: Any
    scheme: str
    sub_norm: bool

    def reasons(self) -> dict[str, str | None]:
        """For each target None where it works, else why not."""
        return self._reasons(self.scheme, self.sub_norm)

    def exportable_with(self) -> str | None:
        """Settings with which the model could be exported; None where there are none."""
        for scheme, sub_norm in _CHOICES:
            found = self._reasons(scheme, sub_norm)
            if any(found[target] is None for target in _EXPORTS):
                return _shown(scheme, sub_norm)
        return None

    def _reasons(self, scheme: str, sub_norm: bool) -> dict[str, str | None]:
        of_model = support(self.settings, scheme, sub_norm)
        return {target: of_model[target] or self._of_tokenizer[target] for target in TARGETS}

    @cached_property
    def _of_tokenizer(self) -> dict[str, str | None]:
        num_rows = self.settings.get("vocab_size")
        if num_rows is None:  # which `support` has said
            return dict.fromkeys(TARGETS)
        with tempfile.TemporaryDirectory() as folder:
            save_tokenizer(self.tokenizer, folder)
            return tokenizer_support(Path(folder), num_rows)


def check_prospects(targets: Targets, allow_unservable: bool) -> None:
    """Logs a line for each target and refuses a model that none can take.

    Raises:
        ConfigError: every target is closed, and model.allow_unservable is not set.
    """
    if targets.scheme == FULL_PRECISION:
        LOG.info(
            "model.scheme=%s: results are plain Hugging Face folders, which may teach or be converted",
            FULL_PRECISION,
        )
        return
    if targets.scheme not in (*SCHEMES, *PHASE_SCHEMES):  # that of another package is nobody's here to judge
        LOG.warning(
            "weights of model.scheme=%s run in PyTorch alone: nothing here exports or serves them",
            targets.scheme,
        )
        return
    found = targets.reasons()
    for target, reason in found.items():
        LOG.info("%s: %s", _TARGETS[target], "works" if reason is None else f"no, {reason}")
    if all(reason is not None for reason in found.values()) and not allow_unservable:
        raise ConfigError(
            f"{_shown(targets.scheme, targets.sub_norm)} gives a model that nothing here exports or serves. "
            f"{_TARGETS['gguf']}: {found['gguf']}. To train it all the same: model.allow_unservable=true"
        )
    if all(found[target] is not None for target in _EXPORTS):
        _warn_of_no_export(targets, is_served=found["native"] is None)


def _warn_of_no_export(targets: Targets, is_served: bool) -> None:
    served = (
        "the native engine alone will serve it, from its checkpoint" if is_served else "nothing serves it"
    )
    other = targets.exportable_with()
    LOG.warning(
        "the trained model will not be exportable (reasons above); %s; %s",
        served,
        "no other scheme changes that" if other is None else f"{other} would make it exportable",
    )


def _shown(scheme: str, sub_norm: bool) -> str:
    return f"model.scheme={scheme} model.sub_norm={str(sub_norm).lower()}"
