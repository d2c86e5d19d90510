"""GGUF files of a test's own, by gguf-py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gguf


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes the keys and tensors that were added, of which there may be none, and closes the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
