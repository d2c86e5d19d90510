"""What is never sent, whatever git says: secrets, results, environments, and what `gcd` itself leaves behind.

The one list of names of secrets in this repository. A pattern is compared without regard to case with each
part of a path by itself, one with slashes with as many parts in a row; so a folder that matches stays with
all that is in it. `*` stands for anything within a part. A file that only shows what a secret looks like
(`.env.example`) is sent.
"""

from __future__ import annotations

import re

from wf_deployer.sync.remote_program import PARTIAL_FOLDER, RECORD

_SETTINGS = (
    *(".env", ".env.*", "*.env", ".envrc", ".secrets"),
    *("secrets.toml", "secrets.yaml", "secrets.yml", "secrets.json"),
)
_KEYS = (
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx", "*.ovpn"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh", ".gnupg"),
)
_REGISTRIES = (
    *(".npmrc", ".pypirc", ".netrc", "_netrc", ".git-credentials", ".pgpass", ".my.cnf", ".htpasswd"),
    *(".docker/config.json", ".dockercfg", ".cargo/credentials*", ".gem/credentials"),
)
_CLOUDS = (
    *("*credentials*.json", "service-account*.json", "service_account*.json", "client_secret*.json"),
    *(".aws", ".azure", ".oci", ".kube", "kubeconfig", ".config/gcloud", ".config/gh", ".boto", ".s3cfg"),
    *("rclone.conf", "*.tfvars", "*.tfstate", "*.tfstate.*", ".sky", ".sky.yaml", "modal.toml"),
    *(".modal.toml", ".runpod", ".nebius", ".lambda_cloud", ".vast_api_key", ".databrickscfg"),
)
_MODELS = (".huggingface", ".cache/huggingface", ".wandb", ".kaggle", "kaggle.json")
SECRETS = (*_SETTINGS, *_KEYS, *_REGISTRIES, *_CLOUDS, *_MODELS, ".sync.conf")
EXAMPLES = (".example", ".sample", ".template")
"""Endings of files that hold no secret, whatever they are named after."""
FOLDERS = ("outputs", "runs")
"""Left out as folders and as links to folders; a file of such a name is sent."""
_PATTERNS = (*SECRETS, ".venv", RECORD, PARTIAL_FOLDER)
_TRANSLATED = (f"({'[^/]*'.join(map(re.escape, pattern.split('*')))})" for pattern in _PATTERNS)
_ANY = re.compile(rf"(?:\A|/)(?:{'|'.join(_TRANSLATED)})(?=/|\Z)")
"""One expression with a group for each pattern: 10,000 paths take a fraction of a second."""


def exclude_of(path: str, is_link: bool) -> str | None:
    """The pattern that keeps a path from being sent."""
    path = path.casefold()
    *folders, name = path.split("/")
    found = _ANY.search("/".join(folders) if name.endswith(EXAMPLES) else path)
    if found is not None:
        assert found.lastindex is not None
        return _PATTERNS[found.lastindex - 1]
    places = [*folders, name] if is_link else folders
    return next((f"{place}/" for place in FOLDERS if place in places), None)
