"""What `serve` starts: a type for each engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from wrinklefree_inference.options.engines import (
    BitnetCppOptions,
    ModelId,
    ServedEngineOptions,
    ServedNativeOptions,
    SglangOptions,
    StockOptions,
    VllmOptions,
)
from wrinklefree_inference.options.flag import Flag
from wrinklefree_inference.options.http import AnswerOptions, HttpOptions, ListenOptions
from wrinklefree_inference.options.scheduling import CacheOptions, MaxRunning, QueueOptions

NumParallel = Annotated[int, Flag("--parallel", "Requests answered at the same time.", minimum=1)]


@dataclass(frozen=True)
class NativeServerOptions:
    """`serve --engine native`."""

    model: str | Path
    listen: ListenOptions = field(default_factory=ListenOptions)
    engine: ServedNativeOptions = field(default_factory=ServedNativeOptions)
    cache: CacheOptions = field(default_factory=CacheOptions)
    queue: QueueOptions = field(default_factory=QueueOptions)
    answers: AnswerOptions = field(default_factory=AnswerOptions)
    http: HttpOptions = field(default_factory=HttpOptions)


@dataclass(frozen=True)
class LlamaCppServerOptions:
    """`serve --engine llamacpp`; context tokens are those of each of `num_parallel` requests."""

    model: str | Path
    listen: ListenOptions = field(default_factory=ListenOptions)
    engine: ServedEngineOptions = field(default_factory=ServedEngineOptions)
    num_parallel: NumParallel = 2
    web_ui: Annotated[bool, Flag("--web-ui", "Its own chat page at /.")] = False


@dataclass(frozen=True)
class BitnetCppServerOptions:
    """`serve --engine bitnetcpp`; context tokens are those of each of `num_parallel` requests."""

    model: str | Path
    listen: ListenOptions = field(default_factory=ListenOptions)
    engine: BitnetCppOptions = field(default_factory=BitnetCppOptions)
    model_id: ModelId = None
    num_parallel: NumParallel = 2


UpstreamTimeout = Annotated[
    float,
    Flag("--upstream-timeout", "Seconds until the server behind sends something, or more.", minimum=0.1),
]


@dataclass(frozen=True)
class ProxyOptions:
    """`serve --engine openai`: `model` is the URL of the server behind."""

    model: str
    listen: ListenOptions = field(default_factory=ListenOptions)
    http: HttpOptions = field(default_factory=HttpOptions)
    upstream_api_key: Annotated[
        str | None,
        Flag(
            "--upstream-api-key",
            "Key of the server behind; better $WF_UPSTREAM_API_KEY.",
            envvar="WF_UPSTREAM_API_KEY",
        ),
    ] = None
    upstream_timeout_s: UpstreamTimeout = 600.0


@dataclass(frozen=True)
class StockServerOptions:
    """A server of others behind our HTTP."""

    model: str | Path
    listen: ListenOptions = field(default_factory=ListenOptions)
    http: HttpOptions = field(default_factory=HttpOptions)
    engine: StockOptions = field(default_factory=StockOptions)
    model_id: ModelId = None
    max_running: MaxRunning = 32
    upstream_timeout_s: UpstreamTimeout = 600.0


@dataclass(frozen=True)
class VllmServerOptions(StockServerOptions):
    """`serve --engine vllm`."""

    engine: VllmOptions = field(default_factory=VllmOptions)


@dataclass(frozen=True)
class SglangServerOptions(StockServerOptions):
    """`serve --engine sglang`."""

    engine: SglangOptions = field(default_factory=SglangOptions)
