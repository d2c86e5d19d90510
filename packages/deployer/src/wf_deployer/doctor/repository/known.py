"""What is known of packages whatever a repository says; each fact with its reason."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import Version

ENDED = {
    "sklearn": "a placeholder: the package is scikit-learn",
    "pytorch-lightning": "goes on as lightning",
    "pynvml": "goes on as nvidia-ml-py",
    "autoawq": "ended with 0.2.9 (May 2025): llm-compressor or gptqmodel",
    "auto-gptq": "ended: gptqmodel goes on from it",
    "optimum-quanto": "in maintenance alone: torchao",
    "torchtext": "ended with 0.18 (torch 2.3)",
    "toml": "TOML 0.5 only: tomllib is in Python 3.11",
    "pkg-resources": "part of setuptools and deprecated there: importlib.metadata",
    "nose": "ended, breaks on Python 3.10: pytest",
    "pycrypto": "ended, with known holes: pycryptodome",
    "tensorflow-gpu": "ended: tensorflow",
    "dataclasses": "part of Python since 3.7",
    "apex": "another project on the index: NVIDIA's is installed from its repository; torch.amp replaces it",
}
"""Abandoned, renamed or not what it seems, and what to take."""

COMPILED_FOR_TORCH = frozenset(
    (
        "auto-gptq",
        "autoawq-kernels",
        "causal-conv1d",
        "deepspeed",
        "flash-attn",
        "flash-attn-3",
        "mamba-ssm",
        "torch-cluster",
        "torch-scatter",
        "torch-sparse",
        "transformer-engine",
        "vllm-flash-attn",
        "xformers",
    )
)
"""Their binaries fit one PyTorch, CUDA release and C++ ABI, or are compiled against them when installed."""

CXX11_ABI_SINCE = Version("2.7")
"""PyTorch's wheels have the C++11 ABI for all CUDA releases since then."""

HUB_OF_TRANSFORMERS = (
    (SpecifierSet("<5"), "huggingface-hub<1.0"),
    (SpecifierSet(">=5"), "huggingface-hub>=1.0"),
)
"""What transformers' releases require of huggingface-hub."""


def torchvision_of(torch: Version) -> str | None:
    """`0.18` for torch 2.3: their minor versions go together, 15 apart."""
    return f"0.{torch.minor + 15}" if torch.major == 2 else None
