"""Log lines for people (`text`) or programs (`json`), on stderr; fields, never prompts or keys."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from wrinklefree_inference.options import LogForm


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """`time` is UTC with milliseconds."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`HH:MM:SS level message name=value ...`; fields without a value are left out."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line before a traceback."""
        fields = [f" {name}={value}" for name, value in _fields(record).items() if value is not None]
        return super().formatMessage(record) + "".join(fields)


def configure(form: LogForm, level: int = logging.INFO) -> None:
    """Send all loggers of this process to stderr in one form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == LogForm.JSON else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)  # each request is logged by us already


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})
