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
    target: Annotated[Path, typer.Argument(help="A new folder, or one with some of the same files.")],
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Download an upload, every file verified. Repeated, it goes on where it was.

    Examples:

    wf store get gs://my-bucket/models/mine models/mine

    wf store get s3://my-bucket/exports/mine exports/mine --timeout 20
    """
    from wf_stores.downloading import download_folder

    store, name = open_upload(url, timeout)
    with progress_bar("downloading") as advance:
        done = download_folder(store, name, target, advance)
    typer.echo(
        f"{target}: {done.num_files} files, {megabytes(done.num_bytes)}, "
        f"{megabytes(done.fetched_bytes)} of it fetched now"
    )
