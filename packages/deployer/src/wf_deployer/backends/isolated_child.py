"""Runs in an environment of its own: loads a program and hands on what its `answers(request)` yields.

See isolated.py. It imports the standard library alone.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from types import TracebackType
from typing import Any


def main(path: str) -> None:
    """Standard output is for answers; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        kinds = [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__]
        lines = traceback.format_exception(kind, error, trace)
        say({"error": {"kinds": kinds, "reason": str(error), "trace": "".join(lines)}})

    sys.excepthook = tell
    say({"begun": True})
    request = json.load(sys.stdin)
    answers_to = runpy.run_path(path)["answers"]
    if not (isinstance(request, dict) and request.keys() == {"each"}):
        for answer in answers_to(request):
            say({"answer": answer})
        return
    for one in request["each"]:
        try:
            (answer,) = answers_to(one)
        except Exception as error:  # noqa: BLE001  # told, of this request alone
            tell(type(error), error, error.__traceback__)
        else:
            say({"answer": answer})


if __name__ == "__main__":
    main(sys.argv[1])
