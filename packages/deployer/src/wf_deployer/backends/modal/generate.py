"""The app of a job: its file, and the checkout that goes into its image.

The file is `job_app.py` with this job's values in it; both lie in the job's folder, where Modal's client
reads them. The checkout there is a copy, of what `gcd` would send, and is removed when Modal has it.
"""

from __future__ import annotations

import errno
import os
import pprint
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wf_deployer.backends.base import JobSpec
from wf_deployer.backends.modal.settings import GRACE_S, ModalSettings
from wf_deployer.backends.record import JobRecord, refuse_secrets
from wf_deployer.backends.torchrun import torchrun
from wf_deployer.backends.travelling import (
    Checkout,
    Destination,
    override_values,
    refuse_files_that_stay,
)
from wf_deployer.backends.work import sends_something, work_script
from wf_deployer.errors import CommandRequestError
from wf_deployer.sync.git_files import listed_files
from wf_deployer.sync.snapshot import sorted_out
from wf_formats.atomic import atomic_write_text
from wf_formats.printable import printable

_TEMPLATES = {
    kind: Path(__file__).with_name(name)
    for kind, name in (("train", "job_app.py"), ("serve", "service_app.py"))
}
_IMPORTED = "from wf_deployer.backends.modal.image_part import CHECKOUT, image\n"
_IMAGE = Path(__file__).with_name("image_part.py")
_NO_VALUES = "JOB: dict[str, Any] = {}"
PYTHON = "/wf/.venv/bin/python"
INPUTS = "/inputs"
_OUTPUTS = "/outputs"
_RESULTS = "wf-results"
VOLUME_PREFIX = "modal:"
"""Before the name of a volume, as the upload of a job."""
ENDING_S = 30
"""Seconds before the time limit at which a job that saves nothing is asked to end."""


def job_values(spec: JobSpec, settings: ModalSettings) -> dict[str, Any]:
    """What `job_app.py` calls `JOB`, but for whose it is."""
    own: dict[str, Any] = {
        "grace_s": GRACE_S,
        "run": run_in_volume(spec),
        "several": spec.resources.num_processes > 1,
        "sends_inputs": False,
    }
    if spec.inputs is not None:
        own |= {"grace_s": ENDING_S, "several": True, "retries": 0, "sends_inputs": sends_something(spec)}
    return {**asdict(settings), **own, "command": _command(spec) if spec.inputs is None else _working(spec)}


def volume_of(upload: str) -> str | None:
    """The volume that results go to; None: a store."""
    return upload.partition(":")[2] if upload.startswith(VOLUME_PREFIX) else None


def check_command(spec: JobSpec, root: Path) -> None:
    """Raises: CommandRequestError for a command with a secret, or with a file that only this machine has."""
    refuse_secrets(
        spec.command,
        "the command is written into the app",
        "give it as a secret of Modal (WF_MODAL_SECRETS)",
    )
    if spec.inputs is not None:
        return
    for argument, key, _ in override_values(spec.command):
        if key == "output_dir":
            raise CommandRequestError(f"{argument}: leave it out; results go to a volume (WF_MODAL_VOLUME)")
    destination = Destination(
        called_from=Path(spec.cwd),
        folder=root,
        has=Checkout(root, files_to_send).has,
        knows=lambda path: path.startswith((f"{_OUTPUTS}/", "/wf/")),
        fix=f"name an upload (gs://, s3://), a path below {_OUTPUTS}/, or a file that git has, from the "
        "checkout's top",
    )
    refuse_files_that_stay(spec.command, destination)


def run_in_volume(spec: JobSpec) -> str:
    """The run's folder, or that of a job's results, as a path in the volume."""
    return f"{spec.experiment}/{spec.stage}" if spec.inputs is None else f"{_RESULTS}/{spec.id}"


def app_source(values: dict[str, Any], kind: str = "train") -> str:
    """Python; `checkout` lies beside it when Modal's client reads it."""
    source = _TEMPLATES[kind].read_text()
    given = f"JOB: dict[str, Any] = {pprint.pformat(values, width=110, sort_dicts=False)}"
    for before, after in ((_NO_VALUES, given), (_IMPORTED, _image_source())):
        assert source.count(before) == 1
        source = source.replace(before, after)
    return source


def _image_source() -> str:
    """What follows the docstring and the line about annotations, which the app has itself."""
    return _IMAGE.read_text().partition("annotations\n\n")[2]


def write_app(folder: Path, record: JobRecord, values: dict[str, Any], kind: str = "train") -> Path:
    """`app.py` in the job's folder; Modal's client takes no empty tag, so one is of a record."""
    path = folder / "app.py"
    whose = {"name": record.name, "tags": {"wf-run": record.id, "wf-token": record.token}}
    atomic_write_text(path, app_source(whose | values, kind))
    return path


def files_to_send(root: Path) -> list[str]:
    """Paths of the checkout that go into the image: git's, without secrets, results and links that lead out.

    Raises:
        CommandRequestError: no git repository, or a name that Modal cannot have.
    """
    files, _ = listed_files(root)
    sent, _ = sorted_out(root, files)
    for path in sent:
        if not path.isprintable():
            raise CommandRequestError(
                f"{printable(path)}: Modal takes no such name; rename it, or name it in .gitignore"
            )
    places = {os.path.realpath(root / path) for path in sent if not (root / path).is_symlink()}
    return [path for path in sent if os.path.realpath(root / path) in places and (root / path).is_file()]


def copy_checkout(root: Path, files: Sequence[str], folder: Path) -> Path:
    """`checkout` in the job's folder, links as what they lead to."""
    checkout = folder / "checkout"
    for path in files:
        target = checkout / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(root / path, target)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # shutil names what it reads
                error.filename = str(target)
            raise
    return checkout


def _working(spec: JobSpec) -> list[str]:
    """A job of work.py."""
    assert spec.upload is not None
    url = f"{_OUTPUTS}/{run_in_volume(spec)}" if volume_of(spec.upload) is not None else None
    return ["bash", "-c", work_script(spec, PYTHON, INPUTS, url)]


def _command(spec: JobSpec) -> list[str]:
    program = [PYTHON, *spec.command[1:], f"output_dir={_OUTPUTS}"]
    if spec.resources.num_processes == 1:
        return program
    agent = torchrun(PYTHON, spec.resources, "--rdzv-endpoint=localhost:0")
    return ["bash", "-c", f'trap "" TERM; exec {agent} {shlex.join(program)}']
