"""The errors of this package: all are the user's data or data settings, none is a bug.

error                   what                                                      exit code
DataError               a file is damaged, missing or empty; a state does not fit 1
DataRequestError        settings or a location that cannot be meant               2
BadRecordError          one record alone; `on_bad_record: skip` goes on after it  1
TooLongError            a record of more tokens than a sequence; see on_too_long  1
HeldOutError            a document that must not be trained on, see HeldOut       1
DataChangedError        a state of other files, see PackedLoader.load_state_dict  1
"""

from __future__ import annotations

from collections.abc import Sequence

from wf_formats.errors import UserError


class DataError(UserError, ValueError):
    """The user's data or data settings are at fault.

    The message names the file and the line or record (counted from 1), what was found there, and
    what to do about it. It can be made from the message alone, so it can be pickled: workers send it.
    """


class DataRequestError(DataError):
    """A setting or location that is wrong whatever the data hold."""

    exit_code = 2


class BadRecordError(DataError):
    """One record cannot be read as text; those around it can.

    Attributes:
        where: file and line or record, e.g. `wiki.jsonl, line 3`.
    """

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class TooLongError(BadRecordError):
    """A record has more tokens than a sequence; `on_too_long` says what becomes of it."""


class HeldOutError(BadRecordError):
    """A document of a set that is held out of training (`HeldOut`), which says what becomes of it."""


class DataChangedError(DataError):
    """A state was saved with data whose content was another one.

    Attributes:
        sources: names of the sources that changed.
        position_fits: the files are the same by name, so that the position can be kept
            (`load_state_dict(state, accept_changed=True)`).
    """

    def __init__(self, message: str, sources: Sequence[str] = (), position_fits: bool = False) -> None:
        super().__init__(message)
        self.sources = list(sources)
        self.position_fits = position_fits
