"""`wf store rm`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wf_stores.commands.common import (
    DEFAULT_TIMEOUT_S,
    Timeout,
    megabytes,
    open_around,
    open_upload,
    shown_place,
)
from wf_stores.errors import NotThereError
from wf_stores.retention import Keep
from wf_stores.store import Store

DAY_HOURS = 24.0


def rm(
    url: Annotated[str, typer.Argument(help="An upload; with an option below, a prefix with several.")],
    only_incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Remove what was not finished, at and below the URL.")
    ] = False,
    older_than_hours: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1e6,
            help="With --incomplete: since they grew.",
            show_default=f"{DAY_HOURS:g}",
        ),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Remove the older checkpoints of a run: of the uploads right below the URL those that are "
            "called step_NUMBER (step_00000500), and no others.",
        ),
    ] = None,
    keep_every: Annotated[
        int | None, typer.Option(min=1, help="With --keep-last: those whose number it divides stay too.")
    ] = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Remove an upload: its COMPLETE first, then its data, so nobody takes half of it for whole.

    Only what an upload wrote is removed; anything else at or below the URL stays.

    Examples:

    wf store rm gs://my-bucket/models/mine

    wf store rm s3://my-bucket/runs --incomplete --older-than-hours 48

    wf store rm gs://my-bucket/runs/mine --keep-last 3 --keep-every 1000
    """
    if only_incomplete and keep_last is not None:
        raise RequestError("--incomplete and --keep-last are two removals; give one after the other")
    if older_than_hours is not None and not only_incomplete:
        raise RequestError("--older-than-hours is for --incomplete; give that too")
    if keep_every is not None and keep_last is None:
        raise RequestError("--keep-every is for --keep-last; give that too")
    if only_incomplete:
        store, under = open_around(url, timeout)
        _rm_incomplete(
            store, under, timedelta(hours=DAY_HOURS if older_than_hours is None else older_than_hours)
        )
    elif keep_last is not None:
        store, under = open_around(url, timeout)
        _rm_older(store, under, Keep(keep_last, keep_every))
    else:
        from wf_stores.inventory import remove_upload

        store, name = open_upload(url, timeout)
        remove_upload(store, name)
        typer.echo(f"removed {printable(f'{store.url}/{name}', None)}")


def _rm_incomplete(store: Store, under: str, older_than: timedelta) -> None:
    from wf_stores.inventory import incomplete_uploads, remove_incomplete

    for upload in incomplete_uploads(store, under, older_than):
        removed: list[int] = []
        remove_incomplete(store, upload, removed.append)
        shown = printable(f"{store.url}/{upload.name}", None)
        if removed:
            typer.echo(f"removed {megabytes(sum(removed))} of an unfinished {shown}")
        else:
            typer.echo(f"left {shown}: it is complete by now, or its COMPLETE is damaged")


def _rm_older(store: Store, under: str, keep: Keep) -> None:
    from wf_stores.inventory import remove_upload
    from wf_stores.retention import numbered, superfluous

    names = numbered(store, under)
    if not names:
        raise NotThereError(
            f"there is no complete upload called step_NUMBER right below {shown_place(store, under)}"
        )
    for name in superfluous(names, keep):
        remove_upload(store, name)
        typer.echo(f"removed {printable(f'{store.url}/{name}', None)}")
