"""Weight quantizers by name.

The ternary ones and those of 4 bits are built in. A further one is registered by its package as an entry
point of the group `bitnet_arch.quantizers`, name -> "module:factory" (called with the name), and imported
when asked for:

    [project.entry-points."bitnet_arch.quantizers"]
    int3-group64 = "my_package.int3:make"
"""

from __future__ import annotations

from functools import cache

from bitnet_arch.quantizers.base import Quantizer
from bitnet_arch.quantizers.int4 import Int4Quantizer
from bitnet_arch.quantizers.ternary import TernaryQuantizer
from wf_formats.plugins import entries, load
from wf_formats.schemes import GROUP_SIZES, INT4_SCHEMES, SCHEMES

ENTRY_POINTS = "bitnet_arch.quantizers"

__all__ = ["ENTRY_POINTS", "Int4Quantizer", "Quantizer", "TernaryQuantizer", "quantizer"]


@cache
def quantizer(name: str) -> Quantizer:
    """The quantizer of that name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
        PluginError: what is registered under a name that is taken, or cannot be loaded.
    """
    registered = entries(ENTRY_POINTS, built_in=SCHEMES)
    if name in GROUP_SIZES:
        return TernaryQuantizer(GROUP_SIZES[name])
    if name in INT4_SCHEMES:
        return Int4Quantizer(INT4_SCHEMES[name])
    if name not in registered:
        raise ValueError(f"unknown weight scheme {name!r}; known: {', '.join([*SCHEMES, *registered])}")
    made: Quantizer = load(registered[name])(name)
    return made
