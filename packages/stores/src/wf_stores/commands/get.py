"""`wf store get`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wf_stores.commands.common import DEFAULT_TIMEOUT_S, Timeout, megabytes, open_upload, progress_bar


def get(
    url: Annotated[
        str, typer.Argument(help="An upload: gs://BUCKET/PREFIX/NAME, s3://BUCKET/PREFIX/NAME or a path.")
    ],
    target: Annotated[
        Path, typer.Argument(help="A new folder, or one that holds some of the same files and no others.")
    ],
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    if_there: Annotated[
        bool,
        typer.Option(
            "--if-there", help="No error if the store has no such upload (yet): there is no folder then."
        ),
    ] = False,
) -> None:
    """Download an upload, every file verified. Repeated, it goes on where it was.

    Examples:

    wf store get gs://my-bucket/models/mine models/mine

    wf store get s3://my-bucket/exports/mine exports/mine --timeout 20 --if-there
    """
    from wf_stores.downloading import download_folder
    from wf_stores.errors import NoUploadError

    store, name = open_upload(url, timeout)
    try:
        with progress_bar("downloading") as advance:
            done = download_folder(store, name, target, advance)
    except NoUploadError as error:
        if not if_there:
            raise
        typer.echo(f"{error}; nothing was written")
        return
    typer.echo(
        f"{target}: {done.num_files} files, {megabytes(done.num_bytes)}, "
        f"{megabytes(done.fetched_bytes)} of it fetched now"
    )
