"""A checkpoint's quantized values as a plain dense model: float32, without this project to load it.

For runtimes that hold no such codes: transformers runs the folder, and llama.cpp's converter makes a GGUF
file in F32, F16 or BF16 of it. The weights are those of the checkpoint exactly; activations are no longer
rounded to int8. Works for any quantizer; a model whose SubLN or low-rank corrections have no place in its
stock class is refused.

    python packages/fairy2/scripts/dense.py outputs/mine/stage3/final dense
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bitnet_arch
from wf_formats.boundary import boundary
from wf_formats.errors import RequestError
from wf_formats.targets import check_apart, check_folder, check_way, checkpoint_kind


def write_dense(folder: Path, target: Path) -> None:
    """Writes the folder `target`.

    Raises:
        CheckpointError: `folder` is no whole checkpoint.
        RequestError: it is dense already, or has parts that a stock class has no place for; `target` is no
            new folder.
    """
    check_way(target)
    check_apart(target, folder)
    check_folder(target, checkpoint_kind())
    if target.is_dir() and any(target.iterdir()):
        raise RequestError(f"{target} holds a checkpoint already, which is kept: choose a new folder")
    loaded = bitnet_arch.load_checkpoint(folder, dtype=torch.float32)
    model: Any = loaded.model
    layers = list(bitnet_arch.bit_linears(model))
    if not layers:
        raise RequestError(f"{folder} holds a dense model already")
    for name, layer in layers:
        if layer.sub_norm is not None or isinstance(layer, bitnet_arch.BitLinearLRC):
            what = "SubLN" if layer.sub_norm is not None else "a low-rank correction"
            raise RequestError(f"{folder}: {name} has {what}, which a dense model has no place for")
        model.set_submodule(name, _linear(layer))
    del model.config.quantization_config
    meta = {key: value for key, value in loaded.meta.items() if key != "conversion"}
    bitnet_arch.save_checkpoint(model, loaded.tokenizer, target, meta)


def _linear(layer: bitnet_arch.BitLinear) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    values = layer.quantizer.quantize(layer.weight).values()
    linear.weight, linear.bias = nn.Parameter(values.contiguous(), requires_grad=False), layer.bias
    return linear


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises: SystemExit, after an error that is shown."""
    parser = argparse.ArgumentParser(description="Write a checkpoint's quantized values as a dense model.")
    parser.add_argument("folder", type=Path, help="checkpoint, such as outputs/mine/stage3/final")
    parser.add_argument("target", type=Path, help="folder to write")
    args = parser.parse_args(argv)
    with boundary("stopped; nothing was written"):
        write_dense(args.folder, args.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
