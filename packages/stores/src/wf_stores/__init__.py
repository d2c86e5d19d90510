"""Folders in `gs://`, `s3://` or a path: uploaded and downloaded whole, verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wf_formats.lazy import lazy_names

if TYPE_CHECKING:
    from wf_stores.downloading import Downloaded, check_upload, download_folder
    from wf_stores.inventory import (
        Upload,
        complete_names,
        incomplete_uploads,
        list_uploads,
        remove_incomplete,
        remove_upload,
    )
    from wf_stores.location import Location, is_bucket_url, parse_location
    from wf_stores.opening import open_store
    from wf_stores.retention import Keep, retain
    from wf_stores.store import Patience, Store, Stored
    from wf_stores.uploading import Uploaded, upload_folder

__getattr__ = lazy_names(
    __name__,
    {
        "Downloaded": "downloading",
        "Keep": "retention",
        "Location": "location",
        "Patience": "store",
        "Store": "store",
        "Stored": "store",
        "Upload": "inventory",
        "Uploaded": "uploading",
        "check_upload": "downloading",
        "complete_names": "inventory",
        "download_folder": "downloading",
        "incomplete_uploads": "inventory",
        "is_bucket_url": "location",
        "open_store": "opening",
        "parse_location": "location",
        "remove_incomplete": "inventory",
        "remove_upload": "inventory",
        "retain": "retention",
        "upload_folder": "uploading",
        "list_uploads": "inventory",
    },
)

__all__ = [
    "Downloaded",
    "Keep",
    "Location",
    "Patience",
    "Store",
    "Stored",
    "Upload",
    "Uploaded",
    "check_upload",
    "complete_names",
    "download_folder",
    "incomplete_uploads",
    "is_bucket_url",
    "list_uploads",
    "open_store",
    "parse_location",
    "remove_incomplete",
    "remove_upload",
    "retain",
    "upload_folder",
]
