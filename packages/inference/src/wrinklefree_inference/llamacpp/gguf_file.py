"""Is this file a GGUF at all? Checked before llama.cpp sees it, so that the answer is plain."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from wf_formats.diffusion import NATIVE_REMEDY
from wf_formats.errors import LoadError
from wf_formats.gguf import GgufError, open_gguf
from wf_formats.models.gguf_adapter import check_adapter_given
from wf_formats.models.kind import check_is_autoregressive
from wrinklefree_inference.errors import EngineError
from wrinklefree_inference.llamacpp.folders import what_runs_folder

MAGIC = b"GGUF"


def check_gguf(path: str | Path, program: str = "llama.cpp") -> Path:
    """Return `path` if it is a file that begins like a GGUF, of a kind that a program is for.

    Raises:
        EngineError: It is missing, a folder, or something else.
        ModelKindError: It holds a block-diffusion model, in a folder or a file.
    """
    path = Path(path)
    if path.is_dir():
        raise EngineError(f"{path} is a folder, not a GGUF file: {what_runs_folder(path, program)}")
    if not path.is_file():
        raise EngineError(f"there is no file {path}")
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise EngineError(f"{path} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    with suppress(GgufError):  # whose reason the program tells
        check_is_autoregressive(path, program, NATIVE_REMEDY)
    return path


def check_model(model: Path, adapter: Path | None) -> Path | None:
    """Return `adapter` if llama.cpp can be asked to run a file with it, or without one.

    Raises:
        EngineError: The adapter is no GGUF; or there is none, and the model's low-rank corrections are in
            one; or the model has a type that llama.cpp does not know.
    """
    if adapter is not None:
        check_gguf(adapter)
    try:
        with suppress(GgufError):  # a file that llama.cpp may read; it is none of ours
            file = open_gguf(model)
            if file.is_for_bitnetcpp:
                raise EngineError(
                    f"{model} has matrices of type i2_s, which bitnet.cpp reads and llama.cpp does not: take "
                    "the native engine, or a build of bitnet.cpp of yours (--engine bitnetcpp)"
                )
            if adapter is None:
                check_adapter_given(file)
    except LoadError as error:
        raise EngineError(f"{model}: {error}") from error
    return adapter
