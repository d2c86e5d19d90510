"""Names of ternary weights and their corrections, as folders and configurations spell them."""

from __future__ import annotations

GROUP_SIZES: dict[str, int | None] = {"tensor": None, "group64": 64, "group128": 128}
"""Scheme -> inputs of a row that share a scale; None: the whole matrix shares one."""
FULL_PRECISION = "none"
"""What configurations call weights that stay as they are; a dense folder has no conversion to name it in."""

MASTER_METHOD = "wrinklefree"
"""quant_method of a folder with float master weights (a training checkpoint)."""
PACKED_METHOD = "wrinklefree_packed"
"""quant_method of a folder with packed codes (packed_codes.py) and group scales."""
COMPRESSED_METHOD = "compressed-tensors"
"""quant_method of a folder that stock vLLM and transformers load (models/hf_compressed.py)."""
LOW_RANK_FACTORS = ("lrc_u", "lrc_v")
"""U [out, rank] and V [in, rank] of a linear with a low-rank correction, as tensors of a checkpoint end."""
