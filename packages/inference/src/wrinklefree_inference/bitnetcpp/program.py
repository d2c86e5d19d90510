"""Where the llama-server of a build of bitnet.cpp is, and with what arguments it is started."""

from __future__ import annotations

import os
from pathlib import Path

from wf_formats.errors import RequestError
from wrinklefree_inference.options import BitnetCppServerOptions

NAME = "llama-server"
_PLACES = (f"build/bin/{NAME}", f"bin/{NAME}", NAME)
"""Below the folder that users name: that of their checkout first."""
KEY_VARIABLE = "LLAMA_API_KEY"
"""By which llama-server takes its key: command lines can be read by all."""


def find_program(build: Path | None) -> Path:
    """The llama-server of a build.

    Args:
        build: the program, or a folder with it.

    Raises:
        RequestError: there is none; the message says what to give.
    """
    if build is None:
        raise RequestError(
            "bitnet.cpp is not part of WrinkleFree: build it, and say where with --bitnetcpp FOLDER or "
            "$WF_BITNETCPP"
        )
    build = build.expanduser()
    places = [build / place for place in _PLACES] if build.is_dir() else [build]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = " or ".join(map(str, places))
        raise RequestError(f"--bitnetcpp {build}: there is no {looked}; build bitnet.cpp there first")
    if not os.access(found, os.X_OK):
        raise RequestError(f"--bitnetcpp {build}: {found} is no program that can be run (chmod +x?)")
    return found.resolve()


def command_of(program: Path, model: Path, port: int, options: BitnetCppServerOptions) -> list[str]:
    """The command line of a server, without its key."""
    engine = options.engine
    return [
        *(str(program), "--model", str(model.resolve()), "--alias", options.model_id or model.stem),
        *("--host", options.listen.host, "--port", str(port)),
        *("--ctx-size", str(engine.context_tokens_or_default * options.num_parallel)),
        *("--parallel", str(options.num_parallel), "--threads", str(engine.num_threads_or_all)),
        *("--n-gpu-layers", "0", "--cont-batching"),
    ]
