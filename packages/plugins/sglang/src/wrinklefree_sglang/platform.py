"""The platform that SGLang's wheel needs on a CPU: PyTorch's operators, and our kernels for ternary linears.

The wheel has CUDA kernels only. Of an out-of-tree platform SGLang takes the native form of every fused
operation, so that attention, norms, rotary positions and sampling are PyTorch's. SGLang imports this module
while it imports itself, so most of it can be named in functions only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform
from torch import nn

from wrinklefree_sglang.folder import cache_tokens, check_everything_is_read, check_folder
from wrinklefree_sglang.names import METHODS

if TYPE_CHECKING:
    from sglang.srt.layers.quantization.base_config import QuantizationConfig


class TernaryCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """An `SRTPlatform`; see the module."""

    _enum = PlatformEnum.OOT
    capabilities = PlatformCapabilities(supports_triton=False, graph_capture=False)
    supported_quantization = list(METHODS)  # noqa: RUF012  # as the base class has it

    def apply_server_args_defaults(self, server_args: Any) -> None:
        """What runs on a CPU, where the user did not say otherwise; refuses a folder before it is loaded.

        Raises:
            LoadError: the folder is damaged or not ternary; names what.
        """
        folder = check_folder(server_args.model_path)
        if server_args.dtype == "auto":  # SGLang's own choice for float32 is float16
            server_args.dtype = folder.dtype
        server_args.disable_overlap_schedule = True  # there is no second stream to overlap with
        server_args.attention_backend = server_args.attention_backend or "torch_native"
        server_args.sampling_backend = server_args.sampling_backend or "pytorch"
        if server_args.max_total_tokens is None and server_args.mem_fraction_static is None:
            free_bytes, _ = self.get_available_memory()
            server_args.max_total_tokens = cache_tokens(folder, server_args.context_length, free_bytes)

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_quantization_config(self, quantization: str) -> type[QuantizationConfig] | None:
        """Ours for `METHODS`, compressed-tensors among them; None: SGLang's own."""
        from wrinklefree_sglang.quantization import TernaryConfig

        return TernaryConfig if quantization in METHODS else None

    def is_pin_memory_available(self, device: Any = None) -> bool:
        return False

    def post_load_model(self, model: nn.Module) -> None:
        """Raises LoadError for tensors of the folder that the model's class has no place for."""
        from sglang.srt.runtime_context import get_server_args

        names = (name for name, _ in model.named_parameters(remove_duplicate=False))
        check_everything_is_read(Path(get_server_args().model_path), names)
