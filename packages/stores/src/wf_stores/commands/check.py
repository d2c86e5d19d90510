"""`wf store check`."""

from __future__ import annotations

from typing import Annotated

import typer

from wf_formats.printable import printable
from wf_stores.commands.common import (
    DEFAULT_TIMEOUT_S,
    Timeout,
    megabytes,
    open_around,
    progress_bar,
    shown_place,
)
from wf_stores.errors import DamagedUploadError, NotThereError


def check(
    url: Annotated[str, typer.Argument(help="An upload, or a prefix with several.")],
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Read complete uploads and verify every file's SHA-256, keeping nothing.

    Exit code 1 where one is damaged; all are read.

    Examples:

    wf store check gs://my-bucket/models/mine

    wf store check s3://my-bucket/runs
    """
    from wf_stores.downloading import check_upload
    from wf_stores.inventory import complete_names

    store, under = open_around(url, timeout)
    names, damaged = complete_names(store, under), 0
    if not names:
        raise NotThereError(f"there is no complete upload at or below {shown_place(store, under)}")
    for name in names:
        try:
            with progress_bar("reading") as advance:
                manifest = check_upload(store, name, advance)
        except DamagedUploadError as error:
            damaged += 1
            typer.echo(f"damaged  {printable(str(error), None)}")
        else:
            shown = printable(f"{store.url}/{name}", None)
            typer.echo(f"good     {shown}: {len(manifest.files)} files, {megabytes(manifest.num_bytes)}")
    if damaged:
        raise DamagedUploadError(f"{damaged} of {len(names)} uploads are damaged; upload those again")
