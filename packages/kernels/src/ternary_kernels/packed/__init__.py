"""Packed models on disk, mapped: the second start of a model packs nothing, and processes share its memory.

    load_packed(path)   weights and tokenizer of a GGUF file or folder

A model is kept in one file under `wf_formats.packaged.cache_folder()`/packed, named after what it depends on
(`key.py`), in the layout of `layout.py`. Variables:

    WF_PACKED_CACHE      0 keeps and looks for nothing; `verify` reads a kept model whole first (1 s a GB)
    WF_PACKED_CACHE_GB   most GB of kept models, 20 if not set; those not used for longest are removed

Whatever hinders keeping (a full disk, a folder that cannot be written, a damaged file) is a warning that
names it, and the model runs from memory. Training checkpoints are not kept: the next step makes others.
"""

from ternary_kernels.packed.cache import LoadedModel, load_packed

__all__ = ["LoadedModel", "load_packed"]
