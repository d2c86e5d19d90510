"""A planned GGUF file as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from wf_converter.gguf_export import GgufExport


def gguf_table(prepared: GgufExport) -> Table:
    """One row per kind of tensor and type: count, bits, size and why."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for tensor in prepared.tensors:
        kind = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else tensor.name
        if tensor.type_name == "f32":
            kind = "norms, scales, biases"
        key = (kind, tensor.type_name, tensor.reason)
        groups.setdefault(key, []).append(tensor.num_bytes)
    table = Table(title=f"GGUF, architecture {prepared.architecture}")
    for column in ("tensors", "type"):
        table.add_column(column)
    for column in ("number", "MB"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for (kind, type_name, reason), sizes in groups.items():
        table.add_row(kind, type_name, *_totals(sizes), reason)
    if prepared.corrections:
        totals = _totals([tensor.num_bytes for tensor in prepared.corrections])
        table.add_row("low-rank corrections", "f32", *totals, "the adapter")
    table.add_section()
    table.add_row("total", "", *_totals([tensor.num_bytes for tensor in prepared.written]), "")
    return table


def _totals(sizes: Sequence[int]) -> tuple[str, str]:
    return str(len(sizes)), f"{sum(sizes) / 1e6:.2f}"
