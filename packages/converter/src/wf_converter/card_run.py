"""How the model of a card is run: its section of commands, by format."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from wf_converter.card_record import GGUF, CardRecord
from wf_formats.gguf import TensorType
from wf_formats.printable import printable
from wf_formats.schemes import COMPRESSED_METHOD, INT4_SCHEMES, PACKED_METHOD, PHASES_METHOD


def how_to_run(record: CardRecord) -> str:
    """Commands and code, in Markdown."""
    if record.block_size is not None:
        return _run_diffusion(record)
    return _run_gguf(record) if record.format == GGUF else _run_hf(record)


def is_for_bitnetcpp(record: CardRecord) -> bool:
    """Whether llama.cpp lacks the type of its matrices."""
    return record.format == GGUF and TensorType.I2_S.label in record.sizes.types


def _run_diffusion(record: CardRecord) -> str:
    """WrinkleFree alone."""
    name, fetch = "FOLDER", [f"hf download {record.repository} --local-dir model"]
    model, *adapters = (shlex.quote(file.name) for file in record.files)
    if record.format == GGUF:
        name = model + "".join(f" --adapter {adapter}" for adapter in adapters)
    elif record.repository:
        name = "model"
    if record.format == GGUF:
        fetch = [f"hf download {record.repository} {' '.join((model, *adapters))} --local-dir ."]
    here = [f"uv run wf chat --model {name}", f"uv run wf serve --model {name}"]
    return "\n\n".join(
        [
            "In WrinkleFree, whose native engine decodes block by block:",
            _block([*(fetch if record.repository else []), *here]),
        ]
    )


def _run_gguf(record: CardRecord) -> str:
    model, *adapters = (shlex.quote(file.name) for file in record.files)
    lora = "".join(f" --lora {adapter}" for adapter in adapters)
    beside = "".join(f" --adapter {adapter}" for adapter in adapters)
    fetch = []
    if record.repository:
        fetch = [f"hf download {record.repository} {' '.join((model, *adapters))} --local-dir ."]
    theirs = [f"llama-cli -m {model}{lora}", f"llama-server -m {model}{lora}"]
    where = "In bitnet.cpp, built on x86:" if is_for_bitnetcpp(record) else "In llama.cpp:"
    here = [f"uv run wf chat --model {model}{beside}", f"uv run wf serve --model {model}{beside}"]
    parts = [_block(fetch)] if fetch else []
    parts += [where, _block(theirs), "In WrinkleFree, by its native engine:"]
    parts += [_block(here)]
    return "\n\n".join(parts)


def _run_hf(record: CardRecord) -> str:
    name = record.repository or "FOLDER"
    fetch = [f"hf download {name} --local-dir model"] if record.repository else []
    folder = "model" if record.repository else name
    here = [*fetch, f"uv run wf chat --model {folder}", f"uv run wf serve --model {folder}"]
    return "\n\n".join(
        [
            *_run_vllm(record, name),
            *_run_transformers(record, name),
            "In WrinkleFree, by its native engine:",
            _block(here),
        ]
    )


def _run_transformers(record: CardRecord, name: str) -> list[str]:
    if record.layout == PHASES_METHOD:
        return []
    if (int4 := INT4_SCHEMES.get(record.scheme)) is not None and int4.has_zeros:
        return ["transformers does not load zero points that are packed, as these are."]
    loader = ["import wf_converter.hf_packed  # WrinkleFree's reader of the packed weights"]
    package = "transformers needs the package `compressed-tensors`, and gets no faster."
    code = [
        *(loader if record.layout == PACKED_METHOD else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        'ids = tokenizer("The sky is", return_tensors="pt").input_ids',
        "print(tokenizer.decode(model.generate(ids, max_new_tokens=32)[0]))",
    ]
    return [
        *([package] if record.layout == COMPRESSED_METHOD else []),
        "In transformers:",
        _block(code, "python"),
    ]


def _run_vllm(record: CardRecord, name: str) -> list[str]:
    if record.layout != COMPRESSED_METHOD:
        return []
    command = [f"vllm serve {name} --max-model-len {min(record.context_tokens or 4096, 4096)}"]
    if record.scheme in INT4_SCHEMES:
        return [
            "In vLLM (W4A16; seen with 0.32 on CPUs; float16 holds the scales exactly, bfloat16 does not):",
            _block([f"{command[0]} --dtype float16"]),
        ]
    needs = (
        "In vLLM (0.32 or newer, on an NVIDIA GPU of compute capability 7.5 or more; weights of 2 bits with "
        "activations of 8 are for its package humming-kernels):"
    )
    return [needs, _block(command)]


def _block(lines: Sequence[str], language: str = "sh") -> str:
    return "\n".join([f"```{language}", *(printable(line, None) for line in lines), "```"])
