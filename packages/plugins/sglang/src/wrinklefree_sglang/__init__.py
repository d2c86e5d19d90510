"""Plug-in of SGLang: ternary folders of `wf export`, on a CPU by the native engine's kernels, or on a GPU.

SGLang finds it by two entry points and calls, in each of its processes,

    activate()   the platform that its wheel lacks: PyTorch on a CPU (platform.py)
    register()   the quantization methods (quantization.py) and the model with SubLN (models/bitnet.py)

On a machine with an accelerator the platform is SGLang's own, unless SGLANG_PLATFORM=wrinklefree asks for the
CPU; with CUDA the methods and the model are made known there too (gpu.py).
Importing this module imports neither PyTorch nor SGLang.
"""

from __future__ import annotations

import os

from wrinklefree_sglang.names import MODELS, PLATFORM


def activate() -> str | None:
    """The platform's class by name; None where another platform is to run.

    That is where PyTorch sees an accelerator, or SGLang's own engine for Intel's AMX is asked for. With ours
    SGLang looks for models in `MODELS` first; to import its own 200 takes most of a start's time.
    """
    import torch

    is_asked_for = os.environ.get("SGLANG_PLATFORM") == PLATFORM
    other = torch.accelerator.is_available() or os.environ.get("SGLANG_USE_CPU_ENGINE") == "1"
    if other and not is_asked_for:
        return None
    os.environ.setdefault("SGLANG_EXTERNAL_MODEL_PACKAGE", MODELS)
    return "wrinklefree_sglang.platform:TernaryCpuPlatform"


def register() -> None:
    """Makes the quantization methods and the model known, if the platform is ours or CUDA."""
    from sglang.srt.platforms import current_platform

    from wrinklefree_sglang.platform import TernaryCpuPlatform

    if isinstance(current_platform, TernaryCpuPlatform):
        from wrinklefree_sglang.registration import register_all

        register_all()
    elif current_platform.is_cuda():
        from wrinklefree_sglang.gpu import register_on_gpu

        register_on_gpu(type(current_platform))
