"""What every model file can be asked for."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from wf_formats.decoder_config import DecoderConfig
from wf_formats.low_rank import LowRankPair
from wf_formats.matrix import NumpyMatrix
from wf_formats.phases import PhaseMatrix


class MasterQuantizer(Protocol):
    """Makes codes and scales of master weights: fp32 [out, in] and the scheme's name (`tensor`, `fairy2-w2`).

    The definition is bitnet_arch's (`bitnet_arch.master_quantizer.quantize_master`); readers have none.
    """

    def __call__(self, weight: np.ndarray, scheme: str, /) -> NumpyMatrix | PhaseMatrix: ...


class ModelFile(Protocol):
    """A model in some file format, checked for completeness when it was opened.

    Every call decodes afresh and lets go of the file's pages.
    """

    @property
    def config(self) -> DecoderConfig: ...
    @property
    def has_master_weights(self) -> bool:
        """Whether matrices are quantized when they are read: a training checkpoint."""

    def embedding(self) -> NumpyMatrix:
        """[vocab, hidden]"""

    def head(self) -> NumpyMatrix | None:
        """[vocab, hidden]; None: the embedding matrix."""

    def final_norm(self) -> np.ndarray:
        """fp32 [hidden]"""

    def matrix(self, layer: int, part: str) -> NumpyMatrix | PhaseMatrix:
        """[out, in] of one of MATRICES, rows in half-split rotary order."""

    def correction(self, layer: int, part: str) -> LowRankPair | None:
        """The low-rank correction of one of MATRICES, rows in the same order; None: it has none."""

    def vector(self, layer: int, part: str) -> np.ndarray | None:
        """fp32 of one of VECTORS; None: the model has none."""
