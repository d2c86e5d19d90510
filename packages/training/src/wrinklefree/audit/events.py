"""What the lines of a run's audit log hold. No secrets: errors are redacted, and no command line is kept.

    started, resumed   who (user, host, process), code (commit, changes, versions), run (stage, experiment,
                       fingerprint), what it starts from and the local data it reads, by content
    ended              how: complete, stopped (by which signal), interrupted, failed (by which error); figures

A start without an end is a process that was killed, or a machine that went down.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import logging
import math
import os
import platform
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wf_formats.errors import RequestError
from wf_formats.secrets import redacted
from wrinklefree.audit.log import LOST, append, lost_line
from wrinklefree.contents import CONTENT

if TYPE_CHECKING:
    from wrinklefree.config.root import TrainConfig
    from wrinklefree.identity import RunIdentity
    from wrinklefree.run_folder import RunFolder
    from wrinklefree.stages.base import Outcome

LOG = logging.getLogger("wrinklefree")
_DISTRIBUTIONS = ("torch", "transformers", "lightning", "ternary-kernels")
_FIGURES = ("steps", "tokens", "seconds", "first_loss", "last_loss")
_SHOWN_CHARACTERS = 500


def audited(
    run: RunFolder, config: TrainConfig, identity: RunIdentity, work: Callable[[], Outcome]
) -> Outcome:
    """`work`, between the lines of its beginning and its end. Needs the run's lock.

    Raises: what `work` raises; OSError where the log cannot be written.
    """
    began = "resumed" if run.has_progress else "started"
    details = _who() | _code(identity) | _run(run, config, identity)
    if (lost := lost_line(run.path)) is not None:
        LOG.warning("the audit log of %s was changed: wf audit shows it", run.path)
        details |= {LOST: lost}
    append(run.path, began, details)
    try:
        outcome = work()
    except BaseException as error:
        _append_failure(run, error)
        raise
    append(run.path, "ended", _who() | _ending(outcome))
    return outcome


def _who() -> dict[str, Any]:
    return {"user": _user(), "host": socket.gethostname(), "pid": os.getpid()}


def _user() -> str:
    """Its number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _code(identity: RunIdentity) -> dict[str, Any]:
    versions = {name: _version(name) for name in _DISTRIBUTIONS}
    return {
        "git": {"commit": identity.git.commit, "dirty": identity.git.dirty},
        "versions": versions | {"python": platform.python_version()},
    }


def _version(distribution: str) -> str | None:
    """None: not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _run(run: RunFolder, config: TrainConfig, identity: RunIdentity) -> dict[str, Any]:
    return {
        "stage": config.training.stage,
        "experiment": config.experiment,
        "fingerprint": identity.fingerprint,
        "parent": identity.values["parent"],
        "contents": {key: value for key, value in identity.values.items() if key.startswith(CONTENT)},
        "resume_data": None if config.resume.data is None else str(config.resume.data),
        "newest_step": max(run.store.steps(), default=None),
    }


def _ending(outcome: Outcome) -> dict[str, Any]:
    figures = {name: _finite(outcome.figures[name]) for name in _FIGURES if name in outcome.figures}
    if outcome.signal is None:
        return {"how": "complete", "figures": figures}
    return {"how": "stopped", "signal": signal.Signals(outcome.signal).name, "figures": figures}


def _finite(figure: Any) -> Any:
    """A loss that is no number as text, since JSON has none."""
    return str(figure) if isinstance(figure, float) and not math.isfinite(figure) else figure


def _append_failure(run: RunFolder, error: BaseException) -> None:
    """The error goes on, whatever becomes of its line."""
    how = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    told = redacted(str(error))[:_SHOWN_CHARACTERS]
    try:
        append(run.path, "ended", _who() | {"how": how, "error": f"{type(error).__name__}: {told}"})
    except (OSError, RequestError) as reason:
        LOG.warning("the end of the run is not in its audit log: %s", reason)
