"""`wf store put`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wf_formats.targets import check_apart
from wf_stores.commands.common import DEFAULT_TIMEOUT_S, Timeout, megabytes, open_upload, progress_bar
from wf_stores.location import parse_location


def put(
    source: Annotated[Path, typer.Argument(help="A folder, or one file.")],
    url: Annotated[
        str, typer.Argument(help="Where to, with the upload's name: gs://BUCKET/PREFIX/NAME, ...")
    ],
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Upload a folder; it is there when all of it is. Repeated, it goes on where it was.

    Examples:

    wf store put outputs/mine/stage2/final gs://my-bucket/models/mine

    wf store put model.gguf s3://my-bucket/exports/mine
    """
    from wf_stores.uploading import upload_folder

    location = parse_location(url)
    if not location.scheme:
        check_apart(Path(location.prefix), source)
    store, name = open_upload(url, timeout)
    with progress_bar("uploading") as advance:
        done = upload_folder(source, store, name, advance)
    typer.echo(
        f"{store.url}/{name}: {done.num_files} files, {megabytes(done.num_bytes)}, "
        f"{megabytes(done.sent_bytes)} of it sent now"
    )
