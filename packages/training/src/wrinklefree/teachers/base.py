"""The interface of a teacher.

The file of a teacher holds its options and its `Teacher`, and imports no PyTorch at the top. It is
registered as an entry point "wrinklefree.teachers" (plugins.py) and chosen by `model.teacher.kind`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from wf_formats.diffusion import MASK_TOKEN
from wrinklefree.capture import Capture, ForwardResult, Shape, View
from wrinklefree.config.model import TeacherConfig
from wrinklefree.config.root import TrainConfig
from wrinklefree.errors import RunError

if TYPE_CHECKING:
    import torch


class Teacher(ABC):
    config: ClassVar[type[TeacherConfig]]
    provides: ClassVar[Capture]
    """What it can give; an objective that wants more is refused at the start."""

    shape: Shape | None = None
    """None: it is not known, and what cannot be compared shows in the first step."""
    tokenizer: Any = None
    """Its tokenizer, whose ids have to be the student's; None: it is not here."""

    @classmethod  # noqa: B027 (most take any options)
    def check(cls, config: Any, run: TrainConfig) -> None:
        """Called when the configuration is composed. Args: as of `load`.

        Raises: ConfigError for options that cannot go together.
        """

    @classmethod
    def contents(cls, config: Any) -> Mapping[str, str]:
        """Digests of the local files that it answers from, by part ("" is one too): they make the run this
        run, and paths do not. A part that came later is no difference.

        Args: config as of `load`. Raises: OSError for a file that cannot be read; what is missing has none.
        """
        return {}

    @classmethod
    @abstractmethod
    def load(cls, config: Any, run: TrainConfig) -> Teacher:
        """Make it ready. Args: config is an instance of `cls.config`; run is what it teaches in.

        Raises: RunError (a teacher that cannot be had as asked).
        """

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Compare tokens with the student's. Raises: RunError naming one that differs."""
        if self.tokenizer is not None:
            check_same_tokens(tokenizer, self.tokenizer)

    @abstractmethod
    def forward(self, view: View, capture: Capture) -> ForwardResult:
        """What `capture` asks for, without gradients, on the device of `view`."""

    def to(self, device: torch.device) -> None:  # noqa: B027 (a remote one has nothing to move)
        """Called once, before the first forward, with the device of the student."""


def check_same_tokens(student: Any, teacher: Any) -> None:
    """The teacher reads the student's ids. Args: tokenizers of transformers.

    The mask token of block diffusion, which no text has, is the student's alone.

    Raises: RunError naming the first id that is another token, or none, for the teacher.
    """
    tokens = {number: token for token, number in teacher.get_vocab().items()}
    for token, number in sorted(student.get_vocab().items(), key=lambda item: item[1]):
        if tokens.get(number) != token and token != MASK_TOKEN:
            other = repr(tokens[number]) if number in tokens else "no token"
            raise RunError(
                f"model.teacher: the teacher has another tokenizer: id {number} is {token!r} for the student "
                f"and {other} for the teacher; choose a teacher with the student's tokenizer"
            )
