"""`wf store ls`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from wf_formats.printable import printable
from wf_stores.commands.common import DEFAULT_TIMEOUT_S, Timeout, megabytes, open_around, shown_place
from wf_stores.errors import NotThereError


def ls(
    url: Annotated[str, typer.Argument(help="gs://BUCKET/PREFIX, s3://BUCKET/PREFIX or a path.")],
    only_incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Instead, those that were not finished.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of lines.")] = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """List the complete uploads at and below a URL.

    Examples:

    wf store ls gs://my-bucket/runs

    wf store ls s3://my-bucket/runs --incomplete

    wf store ls outputs/uploads --json
    """
    from wf_stores.inventory import list_uploads

    store, under = open_around(url, timeout)
    uploads = list_uploads(store, under)
    shown = [upload for upload in uploads if upload.is_complete is not only_incomplete]
    if not shown and not only_incomplete:
        begun = "; --incomplete shows what was not finished" if uploads else ""
        raise NotThereError(f"there is no complete upload at or below {shown_place(store, under)}{begun}")
    if as_json:
        rows = [
            dataclasses.asdict(upload)
            | {"url": f"{store.url}/{upload.name}", "modified": upload.modified.isoformat()}
            for upload in shown
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for upload in shown:
        when = upload.modified.strftime("%Y-%m-%d %H:%M:%S")
        typer.echo(
            f"{when} {megabytes(upload.num_bytes):>14}  {printable(f'{store.url}/{upload.name}', None)}"
        )
