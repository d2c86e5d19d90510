"""vLLM and SGLang as programs: what an environment must have of them, and how each is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PLUGIN = "wrinklefree"
"""Entry point of either plug-in."""


@dataclass(frozen=True)
class Launch:
    """What a server is told of its model."""

    model: str
    model_id: str
    port: int
    dtype: str
    context_tokens: int
    cache_tokens: int
    cache_bytes: int
    max_running: int

    @property
    def model_and_place(self) -> list[str]:
        """Options that both name alike."""
        return [f"--served-model-name={self.model_id}", "--host", "127.0.0.1", "--port", str(self.port)]


@dataclass(frozen=True)
class Program:
    """One of the two.

    Attributes:
        name: For users.
        package: Of Python; also the option and the folder of the plug-in.
        entry_points: Group in which the plug-in is.
        module: Its server.
        arguments: Of the server.
        key_variable: Where the server reads its key.
        variables: Of its environment besides.
        int4_dtype: In which it computes folders of 4 bits whose floats are float32, where its kernel takes
            none; None: it takes no folders of 4 bits.
    """

    name: str
    package: str
    entry_points: str
    module: str
    arguments: Callable[[Launch], list[str]]
    key_variable: str
    variables: Mapping[str, str] = field(default_factory=dict)
    int4_dtype: str | None = None

    @property
    def option(self) -> str:
        return f"--{self.package}"

    @property
    def variable(self) -> str:
        """Names an environment where the option does not."""
        return f"WF_{self.package.upper()}"

    @property
    def plugin(self) -> str:
        """The plug-in's folder in a checkout."""
        return f"packages/plugins/{self.package}"

    @property
    def make(self) -> str:
        """Of a checkout; makes an environment in the folder that follows."""
        return f"sh {self.plugin}/scripts/environment"


def _vllm(launch: Launch) -> list[str]:
    return [
        *("--model", launch.model, *launch.model_and_place),
        *("--dtype", launch.dtype, "--max-model-len", str(launch.context_tokens)),
        *("--kv-cache-memory-bytes", str(launch.cache_bytes)),
        *("--max-num-seqs", str(launch.max_running), "--enforce-eager", "--disable-log-stats"),
    ]


def _sglang(launch: Launch) -> list[str]:
    return [
        *("--model-path", launch.model, *launch.model_and_place, "--device", "cpu"),
        *("--dtype", launch.dtype, "--context-length", str(launch.context_tokens)),
        *("--max-total-tokens", str(launch.cache_tokens)),
        *("--max-running-requests", str(launch.max_running), "--log-level", "warning"),
        "--skip-server-warmup",
    ]


VLLM = Program(
    name="vLLM",
    package="vllm",
    entry_points="vllm.general_plugins",
    module="vllm.entrypoints.openai.api_server",
    arguments=_vllm,
    key_variable="VLLM_API_KEY",
    # All cores stay open to all threads (`nobind`): vLLM would bind each of its own to a core, and the
    # threads of our kernels with the one that starts them.
    variables={
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_PLUGINS": PLUGIN,
    },
    int4_dtype="float16",  # holds the scales exactly; `cpu_gemm_wna16` is "not implemented for 'Float'"
)
SGLANG = Program(
    name="SGLang",
    package="sglang",
    entry_points="sglang.srt.platforms",
    module="wrinklefree_sglang.launch",
    arguments=_sglang,
    key_variable="WF_SGLANG_KEY",
    variables={"SGLANG_PLATFORM": PLUGIN, "SGLANG_PLUGINS": PLUGIN},
)
