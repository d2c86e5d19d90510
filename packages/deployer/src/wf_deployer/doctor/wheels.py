"""What a compiled wheel was compiled for, by its WHEEL file, its version and its file's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import Distribution
from typing import Any

_TORCH = re.compile(r"torch-?(\d+\.\d+)")
_CUDA = re.compile(r"cu(\d{2,3})(?!\d)")
_ABI = re.compile(r"cxx11abi(TRUE|FALSE)", re.IGNORECASE)
_PYTHON = re.compile(r"^Tag: (cp\d+)-(\w+)-", re.MULTILINE)


@dataclass(frozen=True)
class Build:
    """None is "it does not say". Attributes: cuda is as in `cu124` or `cu12`, python as in `cp311`."""

    python: str | None = None
    torch: str | None = None
    cuda: str | None = None
    cxx11_abi: bool | None = None

    def differences(self, python_version: str, torch: dict[str, Any]) -> list[str]:
        """In words, against the PyTorch of children/facts.py; abi3 wheels fit later Pythons."""
        wrong = []
        ours = "cp" + "".join(python_version.split(".")[:2])
        if self.python is not None and self.python != ours:
            wrong.append(f"for {self.python}, this is {ours}")
        version = ".".join(str(torch["version"]).split(".")[:2])
        if self.torch is not None and self.torch != version:
            wrong.append(f"for torch {self.torch}, this is {version}")
        release = str(torch["cuda"] or "").replace(".", "")
        if self.cuda is not None and not release.startswith(self.cuda):
            wrong.append(f"for CUDA cu{self.cuda}, this is {'cu' + release if release else 'CPU only'}")
        if self.cxx11_abi is not None and self.cxx11_abi != torch["cxx11_abi"]:
            wrong.append(f"C++11 ABI {self.cxx11_abi}, this is {torch['cxx11_abi']}")
        return wrong

    def __str__(self) -> str:
        parts = [self.python, self.torch and f"torch{self.torch}", self.cuda and f"cu{self.cuda}"]
        if self.cxx11_abi is not None:
            parts.append(f"cxx11abi{str(self.cxx11_abi).upper()}")
        return " ".join(filter(None, parts)) or "of no known build"


def build_of(distribution: Distribution) -> Build:
    """Projects put `+cu12torch2.6cxx11abiFALSE` into the version or into the file's name alone."""
    wheel = distribution.read_text("WHEEL") or ""
    told = f"{distribution.version} {distribution.read_text('direct_url.json') or ''}"
    python, torch, cuda, abi = (
        pattern.search(text)
        for pattern, text in zip((_PYTHON, _TORCH, _CUDA, _ABI), (wheel, told, told, told), strict=True)
    )
    return Build(
        python=python[1] if python and python[2] != "abi3" else None,
        torch=torch[1] if torch else None,
        cuda=cuda[1] if cuda else None,
        cxx11_abi=abi[1].upper() == "TRUE" if abi else None,
    )
