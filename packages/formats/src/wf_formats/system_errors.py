"""Errors of the operating system that a library written in Rust tells of in words only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def system_errors(path: Path, library_error: type[Exception]) -> Iterator[None]:
    """Turns `... (os error 28)` of a library into the OSError that it is.

    Args:
        path: what is read or written.
        library_error: the library's exception; another one, or one without a number, passes.

    Raises:
        OSError: with its number and the path.
    """
    try:
        yield
    except library_error as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
