"""The model card of a record: YAML front matter as the hub reads it, and Markdown for people.

Everything is computed from the record and nothing else, so that `card_of(read_card(text)) == text` for a
card that nobody changed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from wf_converter.card_record import GGUF, CardRecord, StagePassed, TaskScore, TextScore, plain
from wf_converter.card_run import how_to_run, is_for_bitnetcpp
from wf_converter.measured import EXPORT
from wf_formats.matrix import INT4_BITS
from wf_formats.model_card import RECORD_KEY
from wf_formats.packaged import PACKAGE, ModelSource
from wf_formats.printable import number_of, printable
from wf_formats.schemes import INT4_SCHEMES, PHASE_SCHEMES, SCHEMES, group_size

_PURPOSES = {
    "stage1": "conversion of the dense model",
    "stage1_5": "codes and scales chosen on text",
    "awq": "scales and ranges of 4-bit weights chosen on text",
    "stage1_9": "hidden states aligned with the dense model's",
    "stage2": "training with quantization",
    "stage2_5": "low-rank corrections",
    "stage3": "distillation from a teacher",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$!])")


def card_of(record: CardRecord) -> str:
    """The whole file."""
    return f"---\n{_front_matter(record)}\n---\n\n{_body(record)}"


_TAGS = ["wrinklefree", "ternary", "1.58-bit", "bitnet"]
_INT4_TAGS = ["wrinklefree", "4-bit", "awq"]
_PHASE_TAGS = ["wrinklefree", "complex-weights", "fairy2i"]


def _front_matter(record: CardRecord) -> str:
    license, results = record.license, _eval_results(record) or None
    values: dict[str, Any] = {
        "license": license and license.id,
        "license_name": license and license.name,
        "license_link": license and license.link,
        "language": record.languages or None,
        "base_model": record.base and record.base.repository,
        "base_model_relation": "quantized" if record.base and record.base.repository else None,
        "datasets": record.datasets or None,
        "library_name": _library(record),
        "pipeline_tag": "text-generation",
        "tags": [
            *(_TAGS if _is_ternary(record) else _PHASE_TAGS if _is_complex(record) else _INT4_TAGS),
            *(["block-diffusion"] if record.block_size else []),
        ],
        "model_name": record.name if results else None,
        "eval_results": results,
        RECORD_KEY: plain(record),
    }
    return ModelCardData(**values).to_yaml(line_break="\n")


def _library(record: CardRecord) -> str | None:
    """What loads it; transformers knows neither block diffusion nor phases."""
    if record.format == GGUF:
        return "gguf"
    return None if record.block_size or _is_complex(record) else "transformers"


def _eval_results(record: CardRecord) -> list[EvalResult]:
    texts = [
        EvalResult("text-generation", _slug(one.text), one.text, "perplexity", one.perplexity)
        for one in record.texts
    ]
    tasks = [
        EvalResult("text-generation", _slug(one.task), one.task, one.metric, one.value)
        for one in record.tasks
    ]
    return texts + tasks


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-")


def _body(record: CardRecord) -> str:
    parts = [
        f"# {_escaped(record.name)}",
        _introduction(record),
        "## Conversion",
        _conversion(record),
        *_training(record),
        *_figures(record),
        "## How to run it",
        how_to_run(record),
        "## Limits",
        _limits(record),
        *_license(record),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(record: CardRecord) -> str:
    what = "GGUF file" if record.format == GGUF else "Hugging Face folder"
    return (
        f"{_base(record)} with weights of {_levels(record)} in the matrices of its blocks, made by "
        f"WrinkleFree, as a {what}. Embeddings and norms are not {_kind(record)}.{_packaged(record)}"
        f"{_diffusion(record)}"
    )


def _is_ternary(record: CardRecord) -> bool:
    return record.scheme not in INT4_SCHEMES and not _is_complex(record)


def _is_complex(record: CardRecord) -> bool:
    return record.scheme in PHASE_SCHEMES


def _levels(record: CardRecord) -> str:
    if _is_complex(record):
        return f"{_bits(record)} (complex ones, as sums of phases 1, i, -1 and -i)"
    return "-1, 0 and 1 (1.58 bits)" if _is_ternary(record) else _bits(record)


def _bits(record: CardRecord) -> str:
    """Of weights that are not ternary."""
    bits = PHASE_SCHEMES.get(record.scheme, INT4_BITS)
    return number_of(bits, "bit")


def _kind(record: CardRecord) -> str:
    if _is_complex(record):
        return "complex"
    return "ternary" if _is_ternary(record) else "4-bit"


def _diffusion(record: CardRecord) -> str:
    if record.block_size is None:
        return ""
    return (
        "\n\nIt is a block-diffusion model, no autoregressive one: it fills in blocks of "
        f"{record.block_size:,} tokens, several tokens at each pass. Runtimes for autoregressive models "
        "refuse these files by their model type or architecture."
    )


def _packaged(record: CardRecord) -> str:
    if record.base is None or record.base.source != ModelSource.packaged:
        return ""
    return f" It was made from that model in 4 bits (Q4\\_1), as the Python package `{PACKAGE}` has it."


def _base(record: CardRecord) -> str:
    base = record.base
    if base is None:
        return "A language model"
    at = f", revision `{_code(base.revision)}`," if base.revision else ""
    return f"{base.repository or _escaped(base.name)}{at}"


def _conversion(record: CardRecord) -> str:
    sizes = record.sizes
    group = group_size(record.scheme) if record.scheme in SCHEMES else None
    scale = f"one for each group of {group} weights of a row" if group else "one for each matrix"
    if _is_complex(record):
        scale = "four for each plane of phases of a matrix"
    rows = [
        ("scales", f"{scale} (scheme `{_code(record.scheme)}`)"),
        ("SubLN before the output projections", "yes" if record.sub_norm else "no"),
        ("low-rank corrections", f"rank {record.low_rank}" if record.low_rank else None),
        ("activations", "not quantized" if record.scheme in INT4_SCHEMES else "int8, a scale for each token"),
        ("layout", f"{_escaped(record.layout)}, matrices as {', '.join(map(_escaped, sizes.types))}"),
        (f"{_kind(record)} weights", f"{sizes.num_weights:,}"),
        ("other weights in embeddings", f"{sizes.num_embedding_weights:,}"),
        ("size", f"{sizes.total_bytes / 1e6:,.1f} MB"),
        ("size without embeddings", f"{(sizes.total_bytes - sizes.embedding_bytes) / 1e6:,.1f} MB"),
        ("bits per weight, without embeddings", f"{sizes.bits_per_weight:.2f}"),
    ]
    table = _table(["", ""], [[name, value] for name, value in rows if value is not None])
    note = (
        f"Bits per weight are the size without embeddings over the {_kind(record)} weights: "
        f"{_why_more(record)} beside scales, norms and the tokenizer."
    )
    return f"{table}\n\n{note}"


def _why_more(record: CardRecord) -> str:
    if _is_ternary(record):
        return "above 1.58, since formats store a ternary weight in two bits or four,"
    return f"above {_bits(record).split()[0]}, since they stand"


def _training(record: CardRecord) -> list[str]:
    if not record.stages:
        return []
    rows = [_stage(stage) for stage in record.stages]
    table = _table(["stage", "what", "steps", "tokens", "minutes"], rows)
    note = "" if record.has_all_stages else "\n\nWhat came before the first line is not recorded."
    return ["## Training", table + note]


def _stage(stage: StagePassed) -> list[str]:
    numbers = ["" if value is None else f"{value:,}" for value in (stage.steps, stage.tokens)]
    minutes = "" if stage.seconds is None else f"{stage.seconds / 60:,.1f}"
    return [f"`{_code(stage.stage)}`", _PURPOSES.get(stage.stage, ""), *numbers, minutes]


def _figures(record: CardRecord) -> list[str]:
    parts = [part for part in (_texts(record.texts), _tasks(record.tasks), _proof(record)) if part]
    return ["## Figures", *parts] if parts else []


def _texts(scores: Sequence[TextScore]) -> str:
    if not scores:
        return ""
    rows = [
        [
            _escaped(score.text),
            _of(score.measured_on),
            f"{score.perplexity:,.3f}",
            _number(score.full_precision_perplexity, ",.3f"),
            f"{score.bits_per_byte:.4f}",
            _number(score.full_precision_bits_per_byte, ".4f"),
            f"{score.num_tokens:,}",
            _windows(score),
        ]
        for score in scores
    ]
    header = ["text", "measured on", "perplexity", "full precision's", "bits per byte", "full precision's"]
    return _table([*header, "tokens", "windows"], rows)


def _windows(score: TextScore) -> str:
    stride = "" if score.stride_tokens is None else f", every {score.stride_tokens:,}"
    return f"{score.context_tokens:,} tokens{stride}"


def _tasks(scores: Sequence[TaskScore]) -> str:
    if not scores:
        return ""
    rows = [
        [
            _escaped(score.task),
            _escaped(score.metric),
            _of(score.measured_on),
            f"{score.value:.4f}" + ("" if score.stderr is None else f" ± {score.stderr:.4f}"),
            _number(score.full_precision_value, ".4f"),
            f"{score.num_samples:,}",
        ]
        for score in scores
    ]
    return _table(["task", "metric", "measured on", "value", "full precision's", "samples"], rows)


def _of(measured_on: str) -> str:
    return "these files" if measured_on == EXPORT else "the checkpoint, in PyTorch"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _proof(record: CardRecord) -> str:
    proof = record.proof
    if proof is None:
        return ""
    return (
        f"Proof of the export: codes and scales of all {proof.num_matrices} {_kind(record)} matrices, read "
        f"back from these files, are those of the trained checkpoint. Over {proof.tokens:,} tokens of text "
        f"{_escaped(proof.runtime)} differs from PyTorch with the same roundings by "
        f"{proof.mean_abs_delta:.5f} nats (mean |difference of log-probabilities|), with the same likeliest "
        f"token at {proof.top1_agreement:.1%} of the places; from the model as it was trained by "
        f"{proof.as_trained_mean_abs_delta:.5f} nats and {proof.as_trained_top1_agreement:.1%}."
    )


def _limits(record: CardRecord) -> str:
    lost = "loses knowledge that training wins back in part only"
    rounded = f"three values {lost}" if _is_ternary(record) else f"{_bits(record)} {lost}"
    if record.scheme in INT4_SCHEMES:
        rounded = "4 bits loses some knowledge"
    lines = [
        f"Rounding to {rounded}: measure it on your own task before you rely on it. The base model's limits "
        "are this one's too.",
    ]
    if not record.texts and not record.tasks:
        lines.append("Its quality beside the full-precision model has not been measured for this card.")
    if record.proof is None:
        lines.append("The export has not been proved against its checkpoint.")
    if record.low_rank:
        lines.append("Without the adapter the GGUF file is another, worse model: always load both.")
    if record.context_tokens:
        lines.append(
            f"Contexts up to {record.context_tokens:,} tokens, as the base model's configuration says."
        )
    if not record.has_chat_template:
        lines.append("There is no chat template: it continues text.")
    if is_for_bitnetcpp(record):
        lines.append(
            "The file is for bitnet.cpp on x86 and WrinkleFree: llama.cpp does not know its type, and "
            "bitnet.cpp on ARM takes the weights in another order, so that it answers nonsense there."
        )
    elif record.block_size is not None:
        lines.append("Perplexity is not defined for it; bounds of its likelihood are no perplexities.")
    elif _is_complex(record):
        lines.append("The folder is for WrinkleFree's native engine: no other runtime knows its weights.")
    elif record.format == GGUF:
        lines.append("The file is for llama.cpp and WrinkleFree, not for transformers.")
    return "\n".join(f"- {line}" for line in lines)


def _license(record: CardRecord) -> list[str]:
    if record.license is None:
        return []
    name = _escaped(record.license.name or record.license.id)
    link = record.license.link
    told = f"{name} ({_escaped(link)})" if link else name
    return ["## Licence", f"{told}."]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Text of others, on one line and without a meaning in Markdown or HTML."""
    return _MARKDOWN.sub(r"\\\1", printable(text).replace("&", "&amp;"))


def _code(text: str) -> str:
    """Text of others between backticks."""
    return printable(text).replace("`", "'")
