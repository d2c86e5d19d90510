"""GGUF files in bitnet.cpp, by its own server."""

from __future__ import annotations

from pathlib import Path

from wrinklefree_inference.bitnetcpp.program import find_program
from wrinklefree_inference.bitnetcpp.server import start_server
from wrinklefree_inference.engines.local_server import LocalServerEngine
from wrinklefree_inference.kept.server import KeptServer
from wrinklefree_inference.llamacpp.gguf_file import check_gguf
from wrinklefree_inference.options import BitnetCppOptions, BitnetCppServerOptions, ListenOptions


class BitnetCppEngine(LocalServerEngine):
    """One GGUF file.

    Args:
        path: GGUF file.
        options: Where the user's build is, context and threads.

    Raises:
        EngineError: The file is missing or no GGUF. What bitnet.cpp itself refuses is raised, with what it
            said, by the first use.
        RequestError: There is no build.
    """

    def __init__(self, path: str | Path, options: BitnetCppOptions | None = None) -> None:
        super().__init__(check_gguf(path, "bitnet.cpp"))
        self.options = options or BitnetCppOptions()
        find_program(self.options.build)
        self._server: KeptServer | None = None

    def _start(self, listen: ListenOptions) -> str:
        self._server = start_server(BitnetCppServerOptions(self.path, listen, self.options, num_parallel=1))
        return self._server.url

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
