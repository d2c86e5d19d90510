"""The quantization_config of a compressed-tensors folder with ternary weights: made, and read back.

Only one kind of these many is ternary as ours are: all linears but the head in 2 bits, symmetric, a scale for
each row or each group of 64 or 128 inputs, and int8 activations with a scale for each token. Any other
setting makes another model, and is refused by name.

Source: compressed-tensors 0.20, `QuantizationConfig` and the compressor `pack_quantized`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wf_formats.errors import LoadError
from wf_formats.families.block import HF_HEAD
from wf_formats.schemes import COMPRESSED_METHOD, GROUP_SIZES

COMPRESSED_FORMAT = "pack-quantized"
_GROUP = "group_0"
_HEAD = HF_HEAD.removesuffix(".weight")
_TARGETS = ["Linear"]
_WEIGHTS: dict[str, Any] = {"num_bits": 2, "type": "int", "symmetric": True, "dynamic": False}
_ACTIVATIONS: dict[str, Any] = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "token",
    "dynamic": True,
}
_WITHOUT_EFFECT = ("observer", "observer_kwargs", "zp_dtype")
"""Of how scales were chosen when a model was quantized; zero points there are none."""


def quantization_config(scheme: str, ignored: Sequence[str] = (_HEAD,)) -> dict[str, Any]:
    """The entry of config.json.

    Args:
        scheme: what shares a scale (schemes.py).
        ignored: linears that stay as they are.
    """
    size = GROUP_SIZES[scheme]
    shared = {"strategy": "channel"} if size is None else {"strategy": "group", "group_size": size}
    return {
        "quant_method": COMPRESSED_METHOD,
        "format": COMPRESSED_FORMAT,
        "quantization_status": "compressed",
        "ignore": list(ignored),
        "config_groups": {
            _GROUP: {
                "targets": _TARGETS,
                "format": COMPRESSED_FORMAT,  # without it activations make transformers miss the weights
                "weights": _WEIGHTS | shared,
                "input_activations": dict(_ACTIVATIONS),
                "output_activations": None,
            }
        },
    }


def scheme_of(settings: Mapping[str, Any]) -> str:
    """What shares a scale (schemes.py) in a folder with this quantization_config.

    Raises:
        LoadError: it is of another kind; names the setting.
    """
    _check(settings, "", {"format": COMPRESSED_FORMAT, "quantization_status": "compressed"})
    if (ignored := settings.get("ignore", [])) not in ([], [_HEAD]):
        raise _refused("ignore", ignored, f"[{_HEAD!r}]: all linears of a layer have to be ternary")
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise _refused("config_groups", groups, "one group of all linears")
    ((name, group),) = groups.items()
    where = f"config_groups.{name}."
    group = _object(where.removesuffix("."), group)
    _check(group, where, {"targets": _TARGETS, "output_activations": None})
    if group.get("format") not in (None, COMPRESSED_FORMAT):
        raise _refused(f"{where}format", group["format"], repr(COMPRESSED_FORMAT))
    weights = _object(f"{where}weights", group.get("weights"))
    activations = _object(f"{where}input_activations", group.get("input_activations"))
    _check(activations, f"{where}input_activations.", _ACTIVATIONS, others=True)
    strategy, size = weights.get("strategy"), weights.get("group_size")
    for scheme, wanted in GROUP_SIZES.items():
        if (strategy, size) == (("channel", None) if wanted is None else ("group", wanted)):
            _check(weights, f"{where}weights.", _WEIGHTS | {"strategy": strategy, "group_size": size}, True)
            return scheme
    sizes = ", ".join(str(size) for size in GROUP_SIZES.values() if size)
    raise _refused(f"{where}weights", weights, f"a scale for each channel, or for groups of {sizes}")


def _check(found: Mapping[str, Any], where: str, wanted: Mapping[str, Any], others: bool = False) -> None:
    """Args: others: whether a further setting that is not null is refused, too."""
    for key, value in wanted.items():
        if found.get(key) != value:
            raise _refused(where + key, found.get(key), repr(value))
    if others:
        for key, value in found.items():
            if key not in wanted and key not in _WITHOUT_EFFECT and value is not None:
                raise _refused(where + key, value, "none")


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _refused(where, value, "an object")
    return value


def _refused(where: str, value: Any, wanted: str) -> LoadError:
    return LoadError(
        f"quantization_config.{where} is {value!r:.80}; of {COMPRESSED_METHOD} only ternary weights with "
        f"int8 activations are read here: expected {wanted}"
    )
