"""The image of an app; generate.py puts these lines where an app imports them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import modal

HERE = Path(__file__).parent
CHECKOUT = "/wf"
INPUTS = "/inputs"
SYNC = f"cd {CHECKOUT} && UV_PYTHON=/usr/local/bin/python uv sync --no-group dev"
STRIPPED = "python3 scripts/lock strip <uv.lock >/tmp/uv.lock && mv /tmp/uv.lock uv.lock"
"""uv completes the lock from the index that it sees there: the same versions."""


def is_not_of_the_lock(path: Path) -> bool:
    """Whether the third-party packages can be installed without it."""
    return path.name not in ("pyproject.toml", "uv.lock") and PurePosixPath(path).parts != ("scripts", "lock")


def has_the_lock(path: Path) -> bool:
    return path.name == "uv.lock"


def image(with_inputs: bool = False) -> modal.Image:
    """Two layers: third-party packages, made anew when the lock changes; and the checkout.

    Args: with_inputs: containers see what is sent with a job too.
    """
    checkout = HERE / "checkout"
    packages = (
        modal.Image.debian_slim(python_version="3.11")
        .apt_install("git", "g++")
        .pip_install("uv>=0.9,<0.14")
        .add_local_dir(checkout, CHECKOUT, copy=True, ignore=is_not_of_the_lock)
        .run_commands(f"cd {CHECKOUT} && {STRIPPED}", f"{SYNC} --no-install-workspace")
    )
    whole = packages.add_local_dir(checkout, CHECKOUT, copy=True, ignore=has_the_lock).run_commands(SYNC)
    return whole.add_local_dir(HERE / "inputs", INPUTS) if with_inputs else whole
