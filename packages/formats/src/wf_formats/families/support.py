"""What can be made of a model: which exports hold it, what runs them, and what stands in the way.

The one place for these facts. Stage 1 asks before anything is computed; the exporters and the checkpoint
folders ask when they write. Answers are about configurations; tokenizers and tensors are checked where
they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wf_formats.diffusion import NATIVE_REMEDY, BlockDiffusion, check_autoregressive
from wf_formats.errors import LoadError
from wf_formats.families import FAMILIES, Family, GgufArch, diffusion_arch, family_of
from wf_formats.families.base import SLIDING, Shape
from wf_formats.families.block import HF_EMBEDDING, MATRICES, hf_name, part_shape
from wf_formats.families.layers import LayerKind, read_layers, rope_parameters
from wf_formats.families.settings import check_values, required
from wf_formats.models.groups import row_group
from wf_formats.models.hf_config import activation_of, read_config
from wf_formats.phases import check_columns, check_summed
from wf_formats.rope import DEFAULT_BASE, attention_factor, is_default_yarn, rope_kind, rope_of
from wf_formats.schemes import GROUP_SIZES, INT4_SCHEMES, PHASE_SCHEMES, SCHEMES

TARGETS = ("gguf", "hf", "native", "llamacpp")
GROUPS_FIX = (
    "convert with scheme group64 or group128 and without SubLN (model.scheme=group64 model.sub_norm=false)"
)
_DEFAULTS = {"rope_theta": DEFAULT_BASE, "rms_norm_eps": 1e-6}
"""For settings that a source may leave to transformers and that decide nothing here."""


def support(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> dict[str, str | None]:
    """What a model with this configuration can become once it is converted.

    Args:
        config: contents of a config.json, of the dense model or of a checkpoint.
        scheme: what shares a scale (schemes.py).
        sub_norm: whether SubLN is put in.

    Returns:
        For each of TARGETS (GGUF export, Hugging Face export, native engine, llama.cpp) None where it
        works, else the reason and what would help.
    """
    gguf = _reason(lambda: gguf_arch(config, scheme, sub_norm))
    diffusion = BlockDiffusion.from_settings(config)
    llamacpp = _reason(lambda: check_autoregressive(diffusion, "llama.cpp", NATIVE_REMEDY))
    return {
        "gguf": gguf,
        "hf": _reason(lambda: _check_folder(config, scheme, sub_norm)),
        "native": _reason(lambda: _check_native(config, scheme, sub_norm)),
        "llamacpp": gguf if llamacpp is None else llamacpp,
    }


def _reason(check: Callable[[], object]) -> str | None:
    try:
        check()
    except LoadError as error:
        return str(error)
    return None


def gguf_arch(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> GgufArch:
    """The architecture of llama.cpp that computes what the model computes; of a block-diffusion model what is
    made of it.

    Raises:
        LoadError: there is none; the message says what stands in the way and what to do.
    """
    _check_real(config, scheme, sub_norm)
    if config.get("model_type") not in FAMILIES:
        known = ", ".join(name for name, family in FAMILIES.items() if not family.has_sub_norms)
        raise LoadError(f"model type {config.get('model_type')!r} has no GGUF architecture; known: {known}")
    _check_conversion(config, scheme, sub_norm)
    family = _stored_family(config, scheme, sub_norm)
    reasons = []
    for arch in family.archs:
        if not arch.in_llamacpp:
            continue
        reason = _reason(lambda arch=arch: _check_arch(config, family, arch, scheme, sub_norm))  # type: ignore[misc]
        if reason is None:
            return arch if BlockDiffusion.from_settings(config) is None else diffusion_arch(arch)
        reasons.append(reason)
    raise LoadError(reasons[0])


def why_no_sub_norm(family: Family) -> str | None:
    """Why no conversion puts SubLN into models of a family; None where it can."""
    if not family.fused:
        return None
    return (
        f"SubLN cannot be put into {family.model_type!r} models, whose linears {', '.join(family.fused)} "
        f"hold several matrices: {GROUPS_FIX}"
    )


def why_not_stock_bitnet(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> str | None:
    """Why a converted model cannot be stored as transformers' `bitnet`; None if it can."""
    family = family_of(config.get("model_type"))
    if not family.becomes_bitnet:
        return f"the architecture {family.model_type!r} has no bitnet counterpart"
    if scheme != "tensor":
        return f"the weight scheme is {scheme!r}; bitnet knows one scale per tensor"
    if not sub_norm:
        return "the model has no SubLN, which bitnet has in every block"
    shape = _shape(config)
    if shape.num_heads * shape.head_dim != shape.hidden_size:
        return f"{shape.num_heads} heads of {shape.head_dim} are not the hidden size {shape.hidden_size}"
    if config.get("mlp_bias"):
        return "the feed-forward linears have biases"
    if (window := _window(read_layers(_completed(config), family))) is not None:
        return f"layers see {window} tokens; bitnet has no windows"
    return None


def check_hf(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> None:
    """Raises LoadError for a model that no packed Hugging Face folder of real weights can hold."""
    _check_real(config, scheme, sub_norm)
    _check_conversion(config, scheme, sub_norm)
    family = _stored_family(config, scheme, sub_norm)
    if family.has_sub_norms:
        check_autoregressive(
            BlockDiffusion.from_settings(config),
            "the layout of transformers' bitnet, that of models with SubLN,",
            "--format gguf has a form of its own for it, and without SubLN --format hf",
        )
    if scheme in INT4_SCHEMES:
        raise LoadError(
            f"weights of scheme {scheme} have 4 bits, and the packed folder holds ternary ones; "
            "alternatives: --format compressed-tensors, --format gguf"
        )
    if family.has_sub_norms or (GROUP_SIZES[scheme] is not None and not sub_norm):
        return
    why = ""
    if sub_norm and scheme == "tensor":
        why = f" (it is no stock bitnet: {why_not_stock_bitnet(config, scheme, sub_norm)})"
    raise LoadError(
        f"model.layers.0.self_attn.o_proj: a {family.model_type!r} model with scheme {scheme} and "
        f"{'SubLN' if sub_norm else 'no SubLN'} has no packed form{why}; {GROUPS_FIX}, "
        "or a Llama-like model with scheme tensor and SubLN"
    )


def _check_folder(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> None:
    """Raises LoadError for a model that no Hugging Face folder of any format can hold."""
    check = (
        check_compressed if scheme in INT4_SCHEMES else check_phases if scheme in PHASE_SCHEMES else check_hf
    )
    check(config, scheme, sub_norm)


def check_phases(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> None:
    """Raises LoadError for a model that no folder of phases can hold, or the native engine, which alone runs
    it, would not take from one."""
    if scheme not in PHASE_SCHEMES:
        raise LoadError(
            f"weights of scheme {scheme} are real, and phases are of complex ones "
            f"({', '.join(PHASE_SCHEMES)}); alternatives: --format gguf, hf or compressed-tensors"
        )
    _check_native(config, scheme, sub_norm)
    if sub_norm:
        raise LoadError(
            "model.layers.0.self_attn.o_proj: SubLN with complex weights has no packed form; convert without "
            "it (model.sub_norm=false), or serve the checkpoint as it is (wf serve)"
        )
    decoder = read_config(_completed(config))
    for part in MATRICES:
        check_columns(hf_name(0, part), part_shape(decoder, part)[1])


def check_compressed(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> None:
    """Raises LoadError for a model that no compressed-tensors folder can hold."""
    _check_real(config, scheme, sub_norm)
    _check_conversion(config, scheme, sub_norm)
    check_autoregressive(
        BlockDiffusion.from_settings(config),
        "whoever loads compressed-tensors (vLLM, SGLang, transformers)",
        "--format gguf and --format hf have forms of their own for it",
    )
    family = _stored_family(config, scheme, sub_norm)
    if sub_norm or family.has_sub_norms:
        raise LoadError(
            "model.layers.0.self_attn.o_proj: SubLN before the output projections, which no class has that "
            f"vLLM or transformers load compressed-tensors into; {GROUPS_FIX}, or take another --format"
        )


def _check_native(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> None:
    """The native engine runs training checkpoints too, with SubLN in any family that can have it."""
    _check_conversion(config, scheme, sub_norm)
    decoder = read_config(_completed(config))
    row_group(HF_EMBEDDING, decoder.hidden_size)
    if scheme in PHASE_SCHEMES:
        for part in MATRICES:
            check_summed(hf_name(0, part), part_shape(decoder, part)[1])


def _check_conversion(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> None:
    """Raises LoadError for weights that no conversion makes and for blocks that no engine runs, so that
    nothing can hold or run them."""
    _check_scheme(scheme)
    if sub_norm and scheme in INT4_SCHEMES:
        raise LoadError(
            f"SubLN with weights of scheme {scheme}: it is for ternary ones (model.sub_norm=false)"
        )
    if scheme in PHASE_SCHEMES and (fused := family_of(config.get("model_type")).fused):
        raise LoadError(
            f"complex weights in {config['model_type']!r} models, whose linears {', '.join(fused)} hold "
            "several matrices, pair rows of one with rows of another: nothing here takes them apart; scheme "
            "group64 fits"
        )
    if sub_norm and (reason := why_no_sub_norm(family_of(config.get("model_type")))) is not None:
        raise LoadError(reason)
    diffusion = BlockDiffusion.from_settings(config)
    if diffusion is not None and (reason := diffusion.why_not_served()) is not None:
        raise LoadError(f"{reason}; wf eval takes the checkpoint as it is")


def _check_scheme(scheme: str) -> None:
    if scheme not in (*SCHEMES, *PHASE_SCHEMES):
        raise LoadError(
            f"weights of scheme {scheme!r} are not known here, and nothing exports or runs them; known are "
            f"{', '.join([*SCHEMES, *PHASE_SCHEMES])}"
        )


def _check_real(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> None:
    """Raises LoadError for complex weights; it names the folder of phases only where that holds the model."""
    if scheme in PHASE_SCHEMES:
        check_phases(config, scheme, sub_norm)
        raise LoadError(
            f"weights of scheme {scheme} are sums of complex phases, which no type of this format has: "
            "--format phases writes a folder for the native engine, packages/fairy2/scripts/dense.py their "
            "values as floats, which llama.cpp's converter makes a GGUF in F16 of"
        )
    _check_scheme(scheme)


def _stored_family(config: Mapping[str, Any], scheme: str, sub_norm: bool) -> Family:
    """The family of the checkpoint folder: `bitnet` where a conversion becomes that."""
    family = family_of(config.get("model_type"))
    if family.becomes_bitnet and why_not_stock_bitnet(config, scheme, sub_norm) is None:
        return FAMILIES["bitnet"]
    return family


def _check_arch(
    config: Mapping[str, Any], family: Family, arch: GgufArch, scheme: str, sub_norm: bool
) -> None:
    _check_blocks(config, family, scheme, sub_norm)
    complete = _completed(config)
    activation = activation_of(complete, family)
    if activation != arch.activation:
        raise LoadError(
            f"mlp.gate_proj: activation {complete[family.activation_key]!r}; llama.cpp computes "
            f"{arch.activation} in arch {arch.name} and ignores any other setting; alternative: --format hf"
        )
    if arch.always_ties_head and not config.get("tie_word_embeddings", False):
        raise LoadError(
            f"lm_head.weight: arch {arch.name} of llama.cpp always uses the embedding matrix as "
            "output head, so a separate head would be lost; alternatives: --format hf, or scheme group64 "
            "without SubLN (arch llama)"
        )
    _check_biases(config, arch)
    _check_scale(complete, family, arch)
    layers = read_layers(complete, family)
    _check_layers(layers, arch)
    _check_rope(rope_parameters(complete), arch, sub_norm)
    rope_of(_shape(config).head_dim, rope_parameters(complete))
    if arch.has_local_rope:
        _check_local_rope(rope_parameters(complete, SLIDING), arch)


def _check_blocks(config: Mapping[str, Any], family: Family, scheme: str, sub_norm: bool) -> None:
    if sub_norm == family.has_sub_norms:
        return
    if not sub_norm:
        raise LoadError(
            f"a {family.model_type!r} model without SubLN has no GGUF architecture; alternative: --format hf"
        )
    raise LoadError(
        f"model.layers.0.self_attn.o_proj: SubLN in a {family.model_type!r} model (scheme {scheme}); "
        "llama.cpp has sub-norms in arch bitnet only, which is Llama-like with one scale per matrix and "
        f"no biases, QK-norm, windows or wide heads; alternative: {GROUPS_FIX}"
    )


def _check_biases(config: Mapping[str, Any], arch: GgufArch) -> None:
    parts = {part for group in arch.optional for part in group} | set(arch.extras)
    for key, part in (("attention_bias", "o_bias"), ("mlp_bias", "gate_bias")):
        if config.get(key) and part not in parts:
            raise LoadError(f"{key}: arch {arch.name} of llama.cpp has no such biases; --format hf has them")


def _check_scale(config: Mapping[str, Any], family: Family, arch: GgufArch) -> None:
    if family.attention_scale_key is None:
        return
    wanted = arch.attention_scale(_shape(config)) ** -2
    found = config.get(family.attention_scale_key)
    if not isinstance(found, (int, float)) or abs(found / wanted - 1) > 1e-6:
        raise LoadError(
            f"{family.attention_scale_key} is {found!r:.60}; arch {arch.name} of "
            f"llama.cpp computes with {wanted:g} whatever a file says; --format hf has it"
        )


def _check_layers(layers: list[LayerKind], arch: GgufArch) -> None:
    window = _window(layers)
    if window is not None and arch.windows == "none":
        raise LoadError(
            f"sliding windows of {window} tokens: arch {arch.name} of llama.cpp has none; --format hf and "
            "the native engine have them"
        )
    if window is not None and arch.windows == "period" and window_period(layers) is None:
        raise LoadError(
            f"the layers with windows do not come in a fixed period, as arch {arch.name} of llama.cpp wants; "
            "--format hf has them"
        )
    for index, layer in enumerate(layers):
        rotated = not arch.nope_step or (index + 1) % arch.nope_step != 0
        if not arch.tells_rope_layers and (layer.rope is not None) != rotated:
            raise LoadError(
                f"layer {index} has {'rotary' if layer.rope else 'no rotary'} positions, which arch "
                f"{arch.name} of llama.cpp cannot say; --format hf has them"
            )


def window_period(layers: list[LayerKind]) -> int | None:
    """n where every n-th layer sees everything and all others have a window; None where it is otherwise."""
    slides = [layer.type == SLIDING for layer in layers]
    period = slides.index(False) + 1 if False in slides else len(slides) + 1
    return period if slides == [(index + 1) % period != 0 for index in range(len(slides))] else None


def _check_rope(rope: Mapping[str, Any], arch: GgufArch, sub_norm: bool) -> None:
    """Of layers that see everything; also where there are none, since a file speaks of them."""
    kind = rope_kind(rope)
    _check_part(rope, arch)
    if arch.has_rope_freqs or (kind in arch.rope_kinds and (kind != "yarn" or is_default_yarn(rope))):
        return
    also = "; or scheme group64 without SubLN, whose arch llama has it" if sub_norm else ""
    named = f"{kind!r} with other beta_fast, beta_slow or truncate" if kind in arch.rope_kinds else repr(kind)
    raise LoadError(
        f"rope_freqs: rotary scaling {named} is not available in arch {arch.name} "
        f"(available: {', '.join(arch.rope_kinds)}); alternative: --format hf{also}"
    )


def _check_part(rope: Mapping[str, Any], arch: GgufArch) -> None:
    """Parts of heads that do not turn are told by rope_freqs, as elements that turn by nothing."""
    if rope.get("partial_rotary_factor") in (None, 1, 1.0):
        return
    if not arch.has_rope_freqs:
        raise LoadError(
            f"partial_rotary_factor {rope['partial_rotary_factor']}: arch {arch.name} of llama.cpp turns "
            "whole heads; --format hf and the native engine have it"
        )
    if (scale := attention_factor(rope)) != 1:
        raise LoadError(
            f"{rope_kind(rope)} multiplies the {rope['partial_rotary_factor']:.0%} of each head that turn by "
            f"{scale:.3f}; arch {arch.name} of llama.cpp would multiply whole heads; --format hf and the "
            "native engine have it"
        )


def _check_local_rope(rope: Mapping[str, Any], arch: GgufArch) -> None:
    if (kind := rope_kind(rope)) not in ("default", "dynamic"):
        raise LoadError(
            f"rotary scaling {kind!r} of layers with a window: arch {arch.name} of llama.cpp has none "
            "there; --format hf has it"
        )


def _window(layers: list[LayerKind]) -> int | None:
    return next((layer.window for layer in layers if layer.window is not None), None)


def _shape(config: Mapping[str, Any]) -> Shape:
    check_values(config)
    layers, hidden, heads = (
        required(config, key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    return Shape(layers, hidden, heads, config.get("head_dim") or hidden // heads)


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """With a value for what a config.json may leave out."""
    family = family_of(config.get("model_type"))
    _shape(config)
    complete = dict(config)
    for key, value in _DEFAULTS.items():
        if complete.get(key) is None:
            complete[key] = value
    if complete.get("num_key_value_heads") is None:
        complete["num_key_value_heads"] = complete.get("num_attention_heads")
    complete.setdefault(family.activation_key, "silu")
    return complete
