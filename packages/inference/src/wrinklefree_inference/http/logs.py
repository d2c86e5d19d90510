"""Log lines for people (`text`) or programs (`json`), on stderr; fields, never prompts or keys."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

from wf_formats.printable import legible
from wrinklefree_inference.options import LogForm

_MOST_KINDS = 1000
_log = logging.getLogger(__name__)


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
        """The line before a traceback; names in it are anybody's."""
        fields = [f" {name}={value}" for name, value in _fields(record).items() if value is not None]
        return legible(super().formatMessage(record) + "".join(fields))


def configure(form: LogForm, level: int = logging.INFO) -> None:
    """Send all loggers of this process to stderr in one form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == LogForm.JSON else TextFormatter())
    handler.addFilter(RateLimit())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)  # each request is logged by us already


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


class RateLimit(logging.Filter):
    """Lets few warnings of one kind through (same logger, place and form), then says how many it held back.

    Whoever can cause one can cause thousands a second. The lines of requests, no warnings, all pass.
    """

    def __init__(self, most: int = 5, interval_s: float = 10.0) -> None:
        super().__init__()
        self._most, self._interval_s = most, interval_s
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno < logging.WARNING:
            return True
        kind = (record.name, record.pathname, record.lineno, record.msg)
        now_s = time.monotonic()
        since_s, count = self._seen.get(kind, (now_s, 0))
        held_back = max(0, count - self._most)
        if now_s - since_s >= self._interval_s:
            since_s, count = now_s, 0
            if held_back:
                record.msg = f"{record.getMessage()} (and {held_back} more in {self._interval_s:g} s)"
                record.args = ()
        self._seen[kind] = (since_s, count + 1)
        if len(self._seen) > _MOST_KINDS:
            self._seen.clear()
        return count < self._most


def log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio tells nobody else, as one line: a failed accept, an exception in a callback."""
    error = context.get("exception")
    _log.error(
        "event loop: %s",
        context["message"],
        extra={"fields": {"error": f"{type(error).__name__}: {error}" if error else None}},
        exc_info=None if error is None or isinstance(error, OSError) else error,
    )
