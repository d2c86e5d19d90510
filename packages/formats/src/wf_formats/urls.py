"""URLs, and what was meant as one: `s3:/bucket/x` is a folder called `s3:` to the file system.

A path of such a name is given with `./` before it. pathlib makes one slash of two, so a URL that went through
a `Path` looks like that too.
"""

from __future__ import annotations

import re

_BUCKETS = {"gs": "gs", "gcs": "gs", "s3": "s3", "s3a": "s3", "s3n": "s3"}
"""What people call the schemes of buckets."""
_BUCKET = re.compile(rf"({'|'.join(_BUCKETS)})(?:://|:[/\\]*|;?[/\\]{{2,}})(.*)", re.IGNORECASE | re.DOTALL)
_OTHER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?://|[/\\]+)(.*)", re.DOTALL)
"""One letter is a drive's."""
_QUOTED = re.compile(r"([\"'])(.*)\1", re.DOTALL)


def meant_url(text: str) -> str | None:
    """The URL that is, or was probably meant by, what somebody gave; None for a path."""
    bare = text.strip()
    if quoted := _QUOTED.fullmatch(bare):
        bare = quoted[2]
    if found := _BUCKET.fullmatch(bare):
        return f"{_BUCKETS[found[1].lower()]}://{found[2]}"
    if found := _OTHER.fullmatch(bare):
        return f"{found[1].lower()}://{found[2]}"
    return None
