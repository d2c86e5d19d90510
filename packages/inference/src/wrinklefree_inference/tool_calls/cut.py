"""Whether a text is an object of JSON that was cut short, anywhere: what `max_tokens` leaves of arguments.

Pydantic's parser refuses what no end could mend, but takes what stands behind a whole value, and is no comma
or bracket, for the place of the cut: there the standard library's error has to be at the end.
"""

from __future__ import annotations

import json
import re

from pydantic_core import from_json

_BETWEEN = "Expecting ',' delimiter"
_REST_OF_NUMBER = re.compile(r"(\.|[eE][+-]?)?")


def is_cut_object(text: str) -> bool:
    """Of a text that is no JSON as it stands."""
    try:
        begun = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return False
    return isinstance(begun, dict) and _ends_in_its_error(text)


def _ends_in_its_error(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == _BETWEEN:
            return _REST_OF_NUMBER.fullmatch(text, error.pos) is not None
        return error.msg != "Extra data"
    except RecursionError:
        pass
    return False
