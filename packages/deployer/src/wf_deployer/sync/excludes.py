"""What is never sent, whatever git says: secrets, results, environments, and what `gcd` itself leaves behind.

Names are compared without regard to case, each part of a path by itself.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from wf_deployer.sync.remote_program import PARTIAL_FOLDER, RECORD

SECRETS = (
    ".env",
    ".env.*",
    "*.pem",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "*.key",
    ".netrc",
    "credentials.json",
    ".sync.conf",
)
FOLDERS = ("outputs", "runs")
"""Left out as folders and as links to folders; a file of such a name is sent."""
OTHERS = (".venv", RECORD, PARTIAL_FOLDER)


def exclude_of(path: str, is_link: bool) -> str | None:
    """The pattern that keeps a path from being sent."""
    parts = path.casefold().split("/")
    for pattern in (*SECRETS, *OTHERS):
        if any(fnmatchcase(part, pattern) for part in parts):
            return pattern
    folders = parts if is_link else parts[:-1]
    return next((f"{name}/" for name in FOLDERS if name in folders), None)
