"""What a packed model depends on: the contents of its files, the instruction set, and the code that packs."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import ternary_kernels
import wf_formats
from ternary_kernels import _native
from ternary_kernels.packed.layout import VERSION
from ternary_kernels.packing import TernaryFormat
from wf_formats.environment import processor
from wf_formats.tokenizer.snapshot import LIBRARY

SUFFIX = ".wfpacked"
_NOT_OURS = ("gpu", "training")
"""Folders of `ternary_kernels` that load nothing."""


@dataclass(frozen=True)
class Key:
    """Where one of these differs, the model is packed anew."""

    files_sha256: str
    """Of the model's files, and of its adapter's."""
    isa: str
    code_sha256: str
    ternary_format: TernaryFormat = "auto"
    """As it was asked for."""
    processor: str | None = None
    """What `auto` was decided on; None: nothing was."""
    tokenizers: str = LIBRARY
    version: int = VERSION

    @classmethod
    def of(cls, files_sha256: str, ternary_format: TernaryFormat) -> Key:
        """The key of files for this process: its instruction set, its code, its processor."""
        decided_on = processor() if ternary_format == "auto" else None
        return cls(files_sha256, _native.info()["isa"], code_sha256(), ternary_format, decided_on)

    @property
    def facts(self) -> dict[str, str | int | None]:
        """For the file's header, so that a renamed file is not taken for another."""
        return asdict(self)

    @property
    def file_name(self) -> str:
        """64 digits and `SUFFIX`."""
        return hashlib.sha256(json.dumps(self.facts).encode()).hexdigest() + SUFFIX


@functools.cache
def code_sha256() -> str:
    """Of everything that reads and packs: sources of `wf_formats` and `ternary_kernels`, and the extension.

    So no change of it can be served from before it, and nobody has to count a number up. 10 ms.
    """
    digest = hashlib.sha256()
    for package in (wf_formats, ternary_kernels):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            if name.parts[0] not in _NOT_OURS:
                digest.update(f"{name}\0".encode() + path.read_bytes())
    digest.update(Path(str(_native.__file__)).read_bytes())
    return digest.hexdigest()
