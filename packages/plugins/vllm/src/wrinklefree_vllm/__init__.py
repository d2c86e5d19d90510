"""Ternary models in stock vLLM: a quantization method and the model class that vLLM lacks.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`). From then on it loads
what `wf export` writes as Hugging Face folders (`chosen.py`) and computes ternary linears with the kernels
of the native decoder on a CPU, with ours in Triton on an NVIDIA GPU (`linear.py`); attention, cache,
scheduling and HTTP are vLLM's own.
"""

from __future__ import annotations


def register() -> None:
    """Tell vLLM of the method and of the model class; calling it again does nothing new.

    On other accelerators than NVIDIA's nothing is registered, with a warning: there are no kernels for them.
    """
    from vllm import ModelRegistry
    from vllm.logger import init_logger
    from vllm.model_executor.layers.quantization import register_quantization_config
    from vllm.platforms import current_platform

    if not (current_platform.is_cpu() or current_platform.is_cuda()):
        init_logger("vllm.wrinklefree").warning(
            "the ternary kernels are for CPUs and CUDA, vLLM runs on %s: wrinklefree does nothing",
            current_platform.device_name,
        )
        return
    from wrinklefree_vllm.chosen import METHOD
    from wrinklefree_vllm.config import TernaryConfig

    register_quantization_config(METHOD)(TernaryConfig)
    ModelRegistry.register_model("BitNetForCausalLM", "wrinklefree_vllm.bitnet:BitNetForCausalLM")
