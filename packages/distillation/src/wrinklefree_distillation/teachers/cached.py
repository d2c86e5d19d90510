"""A teacher whose targets were written before, by scripts/cache_teacher.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wrinklefree.capture import Capture, ForwardResult, Shape, View
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.model import TeacherConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.mixture.checks import refuse_moving
from wrinklefree.teachers.base import Teacher

if TYPE_CHECKING:
    from wrinklefree_distillation.target_cache import TargetCache


@dataclass
class CachedTeacherConfig(TeacherConfig):
    """Sampled targets from a folder."""

    kind: str = "cached"
    folder: str | None = None
    """Of cache_teacher.py."""


class CachedTeacher(Teacher):
    config = CachedTeacherConfig
    provides = Capture(predictions=True)

    def __init__(self, cache: TargetCache, tokenizer: Any) -> None:
        facts = cache.facts
        self.cache, self.tokenizer = cache, tokenizer
        self.shape = Shape(
            0, 0, facts.vocab_size, 0, 0, sparse_temperature=facts.temperature, knows_any_text=False
        )

    @classmethod
    def check(cls, config: CachedTeacherConfig, run: TrainConfig) -> None:
        if config.folder is None:
            raise ConfigError(
                "model.teacher.kind=cached needs model.teacher.folder=FOLDER, of targets that "
                "packages/distillation/scripts/cache_teacher.py wrote"
            )
        minutes = getattr(run.training, "minutes", None)
        if minutes is not None:
            raise ConfigError(
                f"training.minutes={minutes:g} with model.teacher.kind=cached: it does not say how much text "
                "the run will read; give training.max_steps, as it was written for"
            )
        refuse_moving(run, "model.teacher.kind=cached")

    @classmethod
    def contents(cls, config: CachedTeacherConfig) -> Mapping[str, str]:
        from pathlib import Path

        from wrinklefree_distillation.target_cache import content_digests

        return {} if config.folder is None else content_digests(Path(config.folder))

    @classmethod
    def load(cls, config: CachedTeacherConfig, run: TrainConfig) -> CachedTeacher:
        from pathlib import Path

        from bitnet_arch.tokenizers import load_tokenizer
        from wrinklefree_distillation.target_cache import TOKENIZER_FOLDER, TargetCache

        assert config.folder is not None
        folder = Path(config.folder)
        cache = TargetCache(folder)
        return cls(cache, load_tokenizer(folder / TOKENIZER_FOLDER))

    def forward(self, view: View, capture: Capture) -> ForwardResult:
        import torch

        from wrinklefree.errors import RunError
        from wrinklefree.predictions import SparsePredictions
        from wrinklefree_distillation.target_cache import sequence_keys

        keys = sequence_keys(view)
        if any(key not in self.cache for key in keys):
            raise RunError(
                f"{self.cache.folder} has no targets for a sequence of this batch (of {len(self.cache)} "
                "sequences): it was written for fewer steps, other text, another tokenizer or another "
                f"training.sequence_length_tokens (it has {self.cache.facts.sequence_length_tokens}), or is "
                "not complete. The same cache_teacher.py command goes on with it, and with this run's "
                "training.max_steps makes it as long as the run"
            )
        ids = torch.stack([self.cache.draws(key) for key in keys]).to(view["input_ids"].device)
        weights = torch.full(ids.shape, 1 / ids.shape[-1], device=ids.device)
        return ForwardResult(0, predictions=SparsePredictions(ids, weights))
