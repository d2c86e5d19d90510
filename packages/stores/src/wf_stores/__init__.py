"""Folders in `gs://`, `s3://` or a path: uploaded and downloaded whole, verified."""
