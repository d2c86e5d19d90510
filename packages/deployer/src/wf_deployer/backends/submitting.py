"""Submitting a job so that, whatever ends it in the middle, its user knows what may be running."""

from __future__ import annotations

from wf_deployer.backends.base import Backend, JobSpec
from wf_deployer.backends.record import runs_folder
from wf_deployer.backends.registry import BACKENDS
from wf_deployer.backends.stored import require_place
from wf_deployer.errors import CommandError
from wf_formats.boundary import explained


class InterruptedLaunchError(CommandError):
    """Ctrl-C in the middle of a submission."""

    exit_code = 130


def submit(backend: Backend, spec: JobSpec) -> None:
    """`Backend.submit`; what it has not settled itself is told with the command that frees the machines.

    A store that we have to read later, how a job of SkyPilot ended or results, is asked before.

    Raises:
        CommandRequestError: the store has no such bucket, or does not let this machine ask.
        CommandError: as `Backend.submit`; or it was interrupted after the job had got its folder.
    """
    is_read_here = spec.inputs is not None or spec.cloud not in BACKENDS
    if spec.upload is not None and "://" in spec.upload and is_read_here:
        require_place(spec.upload, spec.id)
    try:
        backend.submit(spec)
    except CommandError:
        raise
    except BaseException as error:
        if not (runs_folder() / spec.id / "job.json").is_file():
            raise
        told = f"{spec.id} may be running: `wf runs` shows it, `wf cancel {spec.id}` ends it"
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedLaunchError(f"stopped while it was submitted; {told}") from error
        if isinstance(error, OSError):
            raise CommandError(f"{explained(error)}; {told}") from error
        error.add_note(told)
        raise
