"""A job that reads files, leaves results and ends, such as an evaluation; training is the other kind.

Its application says what it reads and how it is called there (`--describe`, docs/extending.md). What runs is
bash, the same on all back ends:

1. It fetches what lies in stores and on the hub; what is of this machine was sent, or is seen there.
2. The program runs in an empty folder, and writes its results into it.
3. If it succeeds, the folder is uploaded to `results_url`, its completion marker last: results that were cut
   short are none. A start after one that got so far finds them, and ends.

It begins anew where it was interrupted: nothing is asked of it before a time limit, nor begun again after it.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wf_deployer.backends.inputs import (
    copy_place,
    fetch_command,
    file_in_repository,
    files_to_send,
    is_fetched,
)
from wf_deployer.errors import CommandError, CommandRequestError
from wf_formats.printable import printable
from wf_formats.urls import meant_url

if TYPE_CHECKING:
    from wf_deployer.backends.base import JobSpec

_SCRIPT = """\
scratch=$(mktemp -d{place}) || exit
trap 'rm -rf "$scratch"' EXIT
"$python" -m wf_stores.main get {url} "$scratch/earlier" --if-there >/dev/null || exit
if [ -d "$scratch/earlier" ]; then
    echo "wf: an earlier start has left the results"
    exit 0
fi
{fetch}mkdir "$scratch/results" && cd "$scratch/results" || exit
"$python" {command} || exit
"$python" -m wf_stores.main put "$scratch/results" {url}
"""
_BUCKET_URL = re.compile(r"(gs|s3)://[A-Za-z0-9][\w.-]*(/[^\s@?#]*)?", re.ASCII)
_FETCH = """\
{variable}=$scratch/{folder}
mkdir -p "${{{variable}%/*}}" && {command} || exit
"""
_ONE_FILE = """\
files=("${variable}"/*.gguf)
[ -f "${{files[0]}}" ] || files=("${variable}"/*)
[ ${{#files[@]}} = 1 ] && [ -f "${{files[0]}}" ] && {variable}=${{files[0]}}
"""


def results_url(spec: JobSpec) -> str:
    """The upload that holds the results of a job when it has succeeded.

    Raises: CommandError for a record that was changed.
    """
    if spec.upload is None:
        raise CommandError(f"the record of {spec.id} is damaged: it does not say where its results are")
    return f"{spec.upload.rstrip('/')}/{spec.id}"


def check_inputs(inputs: Mapping[str, list[str]]) -> None:
    """Raises: CommandRequestError for what is not here and cannot be fetched; a name that may not arrive."""
    for place, names in inputs.items():
        for text in (place, *names):
            if not text.isprintable() or text.encode(errors="replace").decode() != text:
                raise CommandRequestError(
                    f"{printable(text)} may not arrive under this name: rename it without control characters"
                )
        if not is_fetched(place, place):
            files_to_send(Path(place), names)


def copy_inputs(spec: JobSpec, folder: Path) -> None:
    """Puts what is sent into a new folder, as `work_script` looks for it."""
    for name, place in _sent(spec).items():
        copy_place(Path(place), folder / name, _inputs(spec)[place])


def sends_something(spec: JobSpec) -> bool:
    return bool(_sent(spec))


def output_place(given: str | None, cwd: str, default: str | None, sees_paths: bool) -> str:
    """Below what a job leaves its results: a URL, or a whole path.

    Args:
        given: `--output`.
        default: Where it is left out; None: it has to be given.
        sees_paths: Whether the job and this machine have disks in common.

    Raises: CommandRequestError for one that would not outlive the job.
    """
    give = "give --output gs://BUCKET/PREFIX (or s3://...)"
    if given is None:
        if default is None:
            raise CommandRequestError(f"--output is missing, and machines of others keep nothing: {give}")
        return default
    if not given.strip():
        raise CommandRequestError(f"--output is empty: {give}, or a folder where the job sees this disk")
    if _BUCKET_URL.fullmatch(given):
        return given
    if meant_url(given) is not None:
        raise CommandRequestError(f"--output {printable(given)} is no place for results: {give}")
    if not sees_paths:
        raise CommandRequestError(f"--output {printable(given)} is a disk of this machine: {give}")
    return str(Path(cwd, given))


def work_script(
    spec: JobSpec, python: str, sent: str | None, url: str | None = None, scratch: Path | None = None
) -> str:
    """Bash that runs the job.

    Args:
        python: The interpreter there, as bash writes it.
        sent: The folder of `copy_inputs` there, as bash writes it; None: it sees this machine's files.
        url: Where the results go, as the job sees it; `results_url` if left out.
        scratch: What the name of its folder begins with; None: the system's place for such.
    """
    there = {place: f"{sent}/{shlex.quote(name)}" for name, place in _sent(spec).items()} if sent else {}
    fetch = ""
    for number, place in enumerate(place for place in _inputs(spec) if is_fetched(place, place)):
        lines, there[place] = _fetched(number, place)
        fetch += lines
    first, *rest = spec.command
    assert first == sys.executable, first
    words = [there.get(word) or shlex.quote(word) for word in rest]
    place = "" if scratch is None else f" {shlex.quote(f'{scratch}XXXXXX')}"
    where = shlex.quote(url or results_url(spec))
    script = _SCRIPT.format(place=place, url=where, fetch=fetch, command=" ".join(words))
    return f"python={python}\n{script}"


def program_here(spec: JobSpec, scratch: Path | None = None) -> list[str]:
    """What is started where this machine's files and environment are seen. Args: scratch as `work_script`."""
    if spec.inputs is None:
        return spec.command
    return ["bash", "-c", work_script(spec, shlex.quote(sys.executable), None, scratch=scratch)]


def _fetched(number: int, place: str) -> tuple[str, str]:
    """Bash that fetches a place, and the word for it: one file alone is meant itself."""
    variable, folder = f"fetched{number}", f"fetched/{number}/{_name(place)}"
    lines = _FETCH.format(variable=variable, folder=folder, command=fetch_command(place, f'"${variable}"'))
    if (file := file_in_repository(place)) is not None:
        return lines, f'"${variable}"/{shlex.quote(file)}'
    return lines + _ONE_FILE.format(variable=variable), f'"${variable}"'


def _sent(spec: JobSpec) -> dict[str, str]:
    """Path in the folder of what is sent -> place."""
    places = [place for place in _inputs(spec) if not is_fetched(place, place)]
    return {f"{number}/{_name(place)}": place for number, place in enumerate(places)}


def _inputs(spec: JobSpec) -> dict[str, list[str]]:
    assert spec.inputs is not None
    return spec.inputs


def _name(place: str) -> str:
    """The last part, which reports show, of letters that no shell or store minds."""
    known = place.partition("@")[0] if is_fetched(place, place) else place
    last = known.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.+-]", "_", last, flags=re.ASCII).lstrip(".-") or "input"
