"""Is this file a GGUF at all? Checked before llama.cpp sees it, so that the answer is plain."""

from __future__ import annotations

from pathlib import Path

from wrinklefree_inference.errors import EngineError

MAGIC = b"GGUF"


def check_gguf(path: str | Path) -> Path:
    """Return `path` if it is a file that begins like a GGUF.

    Raises:
        EngineError: It is missing, a folder, or something else.
    """
    path = Path(path)
    if path.is_dir():
        raise EngineError(
            f"{path} is a folder, not a GGUF file: export it first, or choose the .gguf file inside it"
        )
    if not path.is_file():
        raise EngineError(f"there is no file {path}")
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise EngineError(f"{path} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    return path
