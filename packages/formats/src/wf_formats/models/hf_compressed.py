"""The quantization_config of a compressed-tensors folder with our weights: made, and read back.

Of these many kinds two are ours, for all linears but the head. Ternary: 2 bits, symmetric, a scale for each
row or each group of 64 or 128 inputs, and int8 activations with a scale for each token. 4 bits: a scale,
with or without a zero point, for each group of 128, 64 or 32 inputs, and activations as they are. Any other
setting makes another model, and is refused by name.

Source: compressed-tensors 0.20, `QuantizationConfig` and the compressor `pack_quantized`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wf_formats.errors import LoadError
from wf_formats.families.block import HF_HEAD
from wf_formats.matrix import INT4_BITS, TERNARY_BITS
from wf_formats.schemes import COMPRESSED_METHOD, GROUP_SIZES, INT4_SCHEMES, Int4Scheme

COMPRESSED_FORMAT = "pack-quantized"
_GROUP = "group_0"
_HEAD = HF_HEAD.removesuffix(".weight")
_TARGETS = ["Linear"]
_WEIGHTS: dict[str, Any] = {"num_bits": TERNARY_BITS, "type": "int", "symmetric": True, "dynamic": False}
_ACTIVATIONS: dict[str, Any] = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "token",
    "dynamic": True,
}
_WITHOUT_EFFECT = ("observer", "observer_kwargs", "zp_dtype", "version", "global_compression_ratio")
"""How scales were chosen, by which release, how small it became; zero points there are none."""
_EMPTY: tuple[Any, ...] = (None, {}, [], {"config_groups": {}})
"""What writers leave of a setting that is not used; the last of transform_config."""


def quantization_config(scheme: str) -> dict[str, Any]:
    """The entry of config.json; the head stays as it is.

    Args:
        scheme: what shares a scale (schemes.py).
    """
    weights, activations = _int4_weights(INT4_SCHEMES[scheme]) if scheme in INT4_SCHEMES else _ternary(scheme)
    return {
        "quant_method": COMPRESSED_METHOD,
        "format": COMPRESSED_FORMAT,
        "quantization_status": "compressed",
        "ignore": [_HEAD],
        "config_groups": {
            _GROUP: {
                "targets": _TARGETS,
                "format": COMPRESSED_FORMAT,  # without it activations make transformers miss the weights
                "weights": weights,
                "input_activations": activations,
                "output_activations": None,
            }
        },
    }


def _ternary(scheme: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    size = GROUP_SIZES[scheme]
    shared = {"strategy": "channel"} if size is None else {"strategy": "group", "group_size": size}
    return _WEIGHTS | shared, dict(_ACTIVATIONS)


def _int4_weights(scheme: Int4Scheme) -> tuple[dict[str, Any], None]:
    own = {"num_bits": INT4_BITS, "symmetric": not scheme.has_zeros}
    return _WEIGHTS | own | {"strategy": "group", "group_size": scheme.group_size}, None


def scheme_of(settings: Mapping[str, Any]) -> str:
    """What shares a scale (schemes.py) in a folder with this quantization_config.

    Raises:
        LoadError: it is of another kind; names the setting.
    """
    if (ignored := settings.get("ignore")) != [_HEAD]:
        only_head = f"[{_HEAD!r}]: the head is a plain tensor, all linears of a layer have to be ternary"
        raise _refused("ignore", ignored, only_head)
    kind = {"format": COMPRESSED_FORMAT, "quantization_status": "compressed"}
    _check(settings, "", kind, "quant_method", "ignore", "config_groups")
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise _refused("config_groups", groups, "one group of all linears")
    ((name, group),) = groups.items()
    where = f"config_groups.{name}."
    group = _object(where.removesuffix("."), group)
    wanted = {"targets": _TARGETS, "output_activations": None}
    _check(group, where, wanted, "format", "weights", "input_activations")
    if group.get("format") not in (None, COMPRESSED_FORMAT):
        raise _refused(f"{where}format", group["format"], repr(COMPRESSED_FORMAT))
    weights = _object(f"{where}weights", group.get("weights"))
    if weights.get("num_bits") == INT4_BITS and group.get("input_activations") is None:
        return _int4_scheme(where, weights)
    activations = _object(f"{where}input_activations", group.get("input_activations"))
    _check(activations, f"{where}input_activations.", _ACTIVATIONS)
    strategy, size = weights.get("strategy"), weights.get("group_size")
    for scheme, inputs in GROUP_SIZES.items():
        if (strategy, size) == (("channel", None) if inputs is None else ("group", inputs)):
            _check(weights, f"{where}weights.", _WEIGHTS | {"strategy": strategy, "group_size": size})
            return scheme
    sizes = ", ".join(str(size) for size in GROUP_SIZES.values() if size)
    raise _refused(f"{where}weights", weights, f"a scale for each channel, or for groups of {sizes}")


def _int4_scheme(where: str, weights: Mapping[str, Any]) -> str:
    for name, scheme in INT4_SCHEMES.items():
        wanted, _ = _int4_weights(scheme)
        if all(weights.get(key) == wanted[key] for key in ("group_size", "symmetric")):
            _check(weights, f"{where}weights.", wanted)
            return name
    sizes = ", ".join(str(scheme.group_size) for scheme in INT4_SCHEMES.values() if not scheme.has_zeros)
    raise _refused(f"{where}weights", weights, f"a scale for groups of {sizes}")


def _check(found: Mapping[str, Any], where: str, wanted: Mapping[str, Any], *elsewhere: str) -> None:
    """Refuses what is not as wanted, and further settings that are used.

    Args:
        elsewhere: keys that are checked by themselves.
    """
    for key, value in wanted.items():
        if found.get(key) != value:
            raise _refused(where + key, found.get(key), repr(value))
    for key, value in found.items():
        if key not in (*wanted, *elsewhere, *_WITHOUT_EFFECT) and value not in _EMPTY:
            raise _refused(where + key, value, "none")


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _refused(where, value, "an object")
    return value


def _refused(where: str, value: Any, wanted: str) -> LoadError:
    return LoadError(
        f"quantization_config.{where} is {value!r:.80}; of {COMPRESSED_METHOD} only ternary weights with "
        f"int8 activations, and 4-bit weights alone, are read here: expected {wanted}"
    )
