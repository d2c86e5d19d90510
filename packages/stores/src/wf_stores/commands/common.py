"""What the sub-commands share: URLs of uploads, the option of patience, the progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from wf_formats.printable import printable
from wf_stores.layout import check_name
from wf_stores.location import Location, parse_location
from wf_stores.store import Advance, Patience, Store

Timeout = Annotated[
    float,
    typer.Option("--timeout", min=0.1, max=86_400, help="Seconds to try each request."),
]
DEFAULT_TIMEOUT_S = Patience.total_s


def open_at(location: Location, timeout_s: float) -> Store:
    from wf_stores.opening import open_store

    answer_s = min(Patience.answer_s, timeout_s)
    return open_store(location, Patience(answer_s=answer_s, total_s=timeout_s))


def open_upload(url: str, timeout_s: float) -> tuple[Store, str]:
    """The store around an upload, and the upload's name there. Raises: RequestError for a URL without one."""
    location, name = parse_location(url).split()
    check_name(name)
    return open_at(location, timeout_s), name


def open_around(url: str, timeout_s: float) -> tuple[Store, str]:
    """The same for what may hold many uploads; no name at the top of a bucket."""
    location = parse_location(url)
    if not location.prefix or location.prefix == "/":
        return open_at(location, timeout_s), ""
    return open_upload(url, timeout_s)


def shown_place(store: Store, under: str) -> str:
    """The URL that `open_around` was given, without secrets."""
    return printable("/".join(filter(None, (store.url, under))), None)


@contextmanager
def progress_bar(what: str) -> Iterator[Advance]:
    """Bytes that are done, on stderr; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    console = Console(stderr=True, markup=False)
    columns = (SpinnerColumn(), TextColumn(what, markup=False), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda num_bytes: bar.advance(task, num_bytes)


def megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
