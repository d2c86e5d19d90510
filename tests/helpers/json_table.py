"""A fake server's table, which it and the tests read and write: `table.json` of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class JsonTable:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> dict[str, Any]:
        table: dict[str, Any] = json.loads((self.folder / "table.json").read_text())
        return table

    def write(self, table: dict[str, Any]) -> None:
        (self.folder / "table.json").write_text(json.dumps(table))

    def set(self, **values: Any) -> None:
        self.write(self.read() | values)
