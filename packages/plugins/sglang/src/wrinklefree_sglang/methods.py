"""quant_methods of config.json that the plug-in takes over."""

from __future__ import annotations

from wf_formats.schemes import COMPRESSED_METHOD, PACKED_METHOD

METHODS = (COMPRESSED_METHOD, PACKED_METHOD, "bitnet")
