"""Names by which SGLang and folders speak of what is here."""

from __future__ import annotations

from wf_formats.schemes import COMPRESSED_METHOD, PACKED_METHOD

PLATFORM = "wrinklefree"
"""Name of the entry points, as SGLANG_PLATFORM spells it."""
MODELS = "wrinklefree_sglang.models"
"""Package of the models that are served."""
METHODS = (COMPRESSED_METHOD, PACKED_METHOD, "bitnet")
"""quant_methods of config.json that the plug-in takes over."""
GPU_METHOD = "wrinklefree"
"""Name under which the plug-in takes ternary compressed-tensors folders from SGLang's own method on a GPU."""
