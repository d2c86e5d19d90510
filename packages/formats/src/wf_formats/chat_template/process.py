"""The process in which templates are rendered, seen from here: JSON out, JSON back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wf_formats.chat_template.limits import COMPUTING_S
from wf_formats.chat_template.replies import KINDS, TemplateTooCostlyError, TemplateUnfitError
from wf_formats.limited_process import LimitedProcess, ProcessEndedError


class Renderer(LimitedProcess):
    """Renders templates one after another; threads take turns. The worker is started when it is needed.

    Args:
        computing_s: processor time of one rendering.
    """

    def __init__(self, computing_s: float = COMPUTING_S) -> None:
        super().__init__("wf_formats.chat_template.worker", computing_s)

    def render(self, source: str, values: Mapping[str, Any]) -> str:
        """The text.

        Raises:
            ChatTemplateError: of the kind that the worker names, or because it ended.
        """
        try:
            line = json.dumps({"source": source, "values": values}).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise TemplateUnfitError(f"the chat template refuses these messages: {error}") from error
        try:
            reply = json.loads(self.ask(line))
        except ProcessEndedError as error:
            raise TemplateTooCostlyError(f"the chat template goes beyond its limits: {error}") from error
        if "text" in reply:
            text: str = reply["text"]
            return text
        raise KINDS[reply["kind"]](reply["reason"])


RENDERER = Renderer()
