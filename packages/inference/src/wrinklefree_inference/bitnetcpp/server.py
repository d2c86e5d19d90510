"""The llama-server of a build of bitnet.cpp, as a child of this process."""

from __future__ import annotations

import os
import threading

from wf_formats.errors import RequestError
from wrinklefree_inference.bitnetcpp.program import KEY_VARIABLE, command_of, find_program
from wrinklefree_inference.kept.server import KeptServer, place_of
from wrinklefree_inference.keys import keys_of
from wrinklefree_inference.llamacpp.gguf_file import check_gguf
from wrinklefree_inference.options import BitnetCppServerOptions


def start_server(options: BitnetCppServerOptions, stop: threading.Event | None = None) -> KeptServer:
    """Start a server and wait until it has loaded its model.

    Args:
        stop: ends the waiting.

    Raises:
        EngineError: The model is missing, the address is taken, or the server ends (with what it said last).
        RequestError: There is no program, or more than one key.
    """
    program, model = find_program(options.engine.build), check_gguf(options.model, "bitnet.cpp")
    keys = keys_of(options.listen)
    if len(keys) > 1:
        raise RequestError(f"bitnet.cpp's server takes one API key, {len(keys)} were given")
    port, url = place_of(options.listen)
    server = KeptServer("bitnet.cpp", url, command_of(program, model, port, options), _environment(keys))
    try:
        server.wait(stop)
    except BaseException:
        server.close()
        raise
    return server


def _environment(keys: list[str]) -> dict[str, str]:
    """Without a key of somebody's shell."""
    inherited = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    return inherited | ({KEY_VARIABLE: keys[0]} if keys else {})
