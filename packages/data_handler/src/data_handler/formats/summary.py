"""CNN/DailyMail: an article and its highlights, one sentence a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_handler.formats.base import Message, RecordFormat, answer_of, exchange, filled


class Summary(RecordFormat):
    """The task stands last, so that an article which is cut from the left to fit keeps it."""

    fields = ("article", "highlights")

    def question(self, record: Mapping[str, Any]) -> str:
        """The prompt of a record. Raises: UnfitRecordError."""
        return f"{filled(record, 'article')}\n\nSummarize this article in three or four short sentences."

    def messages(self, record: Mapping[str, Any]) -> list[Message]:
        return exchange(self.question(record), answer_of(record, "highlights"))
