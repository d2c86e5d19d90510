"""What `wf serve --cloud` is asked to keep running: a model, behind a server of `wf serve`, in some copies.

A copy (SkyServe: replica, Modal: container) has the checkout and its environment. It gets the model as
inputs.py says: from this machine, a store or the hub.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wf_deployer.backends.inputs import fetch_command, is_fetched
from wf_deployer.errors import CommandRequestError
from wf_formats.exports import HUB_PREFIX
from wf_formats.printable import printable

PORT = 8080
KEY_VARIABLE = "WF_API_KEY"
_REPLICAS = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?", re.ASCII)
_OURS = ("--model", "--host", "--port", "--api-key", "--api-key-file")

_SCRIPT = """\
model={model}
{fetch}files=("$model"/*.gguf)
[ ${{#files[@]}} = 1 ] && [ -f "${{files[0]}}" ] && model=${{files[0]}}
exec "$python" -m wrinklefree_inference serve --model "$model" --host 0.0.0.0 --port {port}{options}
"""


@dataclass(frozen=True)
class Service:
    """Attributes:
    model: As it was given; a path is absolute.
    min_replicas, max_replicas: Copies; 0 at least: none while nobody asks.
    qps: Requests a second for which there is a further copy, where their number varies on SkyServe.
    idle_s: Seconds without requests after which one too many ends; None: what the back end does by default.
    """

    model: str
    min_replicas: int
    max_replicas: int
    qps: float | None = None
    idle_s: int | None = None

    @property
    def varies(self) -> bool:
        return self.min_replicas != self.max_replicas

    @property
    def local_model(self) -> Path | None:
        """The file or folder of this machine, if it is one."""
        is_elsewhere = "://" in self.model or self.model.startswith(HUB_PREFIX)
        return None if is_elsewhere else Path(self.model)

    @property
    def label(self) -> str:
        """The model's own name, for people."""
        return printable(re.split(r"[/:]", self.model.rstrip("/"))[-1])[:64] or "model"


def service_of(
    model: str, replicas: str | None, qps: float | None, idle_s: int | None, default_replicas: str
) -> Service:
    """Of the options of `wf serve --cloud`. Raises: CommandRequestError for one that cannot be; names it."""
    if (match := _REPLICAS.fullmatch(replicas or default_replicas)) is None:
        raise CommandRequestError(
            f"--replicas {printable(replicas or '')!r}: give a number (2), or two of them (0-4)"
        )
    least, most = int(match[1]), int(match[2] or match[1])
    if most < max(1, least):
        raise CommandRequestError(f"--replicas {replicas}: the second number is at least 1 and the first")
    if qps is not None and not 0 < qps < 1e6:
        raise CommandRequestError(f"--qps {qps}: give the requests a second of one replica, such as 2")
    service = Service(_checked_model(model), least, most, qps, idle_s)
    if not service.varies and (qps is not None or idle_s is not None):
        option = "--qps" if qps is not None else "--idle"
        raise CommandRequestError(
            f"{option}: {least} replicas are always {least}; leave it out, or give --replicas 0-{most}"
        )
    return service


def _checked_model(model: str) -> str:
    if not model:
        raise CommandRequestError("--model is empty: a GGUF file, an exported folder, gs://, s3:// or hub:")
    if is_fetched(model, f"--model {printable(model)}"):
        return model
    path = Path(model).expanduser().absolute()
    if not path.exists():
        raise CommandRequestError(f"--model {printable(model)}: there is no such file or folder here")
    if path.is_dir() and not ((path / "config.json").is_file() or any(path.glob("*.gguf"))):
        raise CommandRequestError(
            f"--model {printable(model)}: the folder has neither config.json nor a GGUF file; name an export"
        )
    if path.is_file() and path.suffix != ".gguf":
        raise CommandRequestError(f"--model {printable(model)}: it is no GGUF file and no exported folder")
    return str(path)


def check_server_options(options: Sequence[str], folder: Path) -> None:
    """Raises: CommandRequestError for one that the back end gives itself, and for a file of this machine.

    Args:
        folder: That `wf` was called in.
    """
    for option in options:
        name, equals, value = option.partition("=")
        if name in _OURS:
            fix = f"the key is {KEY_VARIABLE}, a secret" if "key" in name else "it is given there"
            raise CommandRequestError(f"{name}: leave it out; {fix}")
        value = value if equals else name
        is_file = not value.startswith("-") and (folder / value).exists()
        if is_file or value.startswith(("/", "~", "./", "../")):
            raise CommandRequestError(
                f"{printable(shlex.join(options))}: {printable(value)} is a path of this machine, which the "
                "server does not see; export a model that has it in itself"
            )


def start_script(service: Service, command: Sequence[str], sent_model: str, fetched_model: str) -> str:
    """Bash that gets the model and becomes the server; `$python` is the interpreter of its environment.

    Args:
        command: Options of `wf serve`.
        sent_model: Where a model of this machine is there, as bash writes it.
        fetched_model: A folder there for one that is fetched, as bash writes it.
    """
    fetch = fetch_command(service.model, '"$model"') if service.local_model is None else ""
    return _SCRIPT.format(
        model=fetched_model if fetch else sent_model,
        fetch=f"{fetch} || exit\n" if fetch else "",
        port=PORT,
        options="".join(f" {shlex.quote(option)}" for option in command),
    )
