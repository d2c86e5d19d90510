"""Every option of the engines and servers: its default, its help and its flag stand here, once.

The command line makes these objects (`commands.flags`) and they travel as they are to whoever acts on them.
Which engine takes which option follows from the types: `SERVERS` in `commands.serve` and `ENGINES` in
`engines` name the type of each. Fields without a flag are for code alone. Nothing here imports more than
the standard library.
"""

from wrinklefree_inference.options.engines import (
    ADAPTER,
    ALL_CORES,
    DEFAULT_CONTEXT_TOKENS,
    BitnetCppOptions,
    CacheGb,
    ClientOptions,
    ComputeOptions,
    ContextTokens,
    EngineOptions,
    Head,
    ModelId,
    NativeOptions,
    NumThreads,
    ServedEngineOptions,
    ServedNativeOptions,
    SglangOptions,
    Speculate,
    StockOptions,
    TernaryFormat,
    VllmOptions,
)
from wrinklefree_inference.options.flag import (
    Flag,
)
from wrinklefree_inference.options.http import (
    AnswerOptions,
    HttpOptions,
    ListenOptions,
    LogForm,
)
from wrinklefree_inference.options.scheduling import (
    CacheOptions,
    CacheType,
    MaxRunning,
    QueueOptions,
)
from wrinklefree_inference.options.servers import (
    BitnetCppServerOptions,
    LlamaCppServerOptions,
    NativeServerOptions,
    NumParallel,
    ProxyOptions,
    SglangServerOptions,
    StockServerOptions,
    UpstreamTimeout,
    VllmServerOptions,
)

__all__ = [
    "ADAPTER",
    "ALL_CORES",
    "DEFAULT_CONTEXT_TOKENS",
    "AnswerOptions",
    "BitnetCppOptions",
    "BitnetCppServerOptions",
    "CacheGb",
    "CacheOptions",
    "CacheType",
    "ClientOptions",
    "ComputeOptions",
    "ContextTokens",
    "EngineOptions",
    "Flag",
    "Head",
    "HttpOptions",
    "ListenOptions",
    "LlamaCppServerOptions",
    "LogForm",
    "MaxRunning",
    "ModelId",
    "NativeOptions",
    "NativeServerOptions",
    "NumParallel",
    "NumThreads",
    "ProxyOptions",
    "QueueOptions",
    "ServedEngineOptions",
    "ServedNativeOptions",
    "SglangOptions",
    "SglangServerOptions",
    "Speculate",
    "StockOptions",
    "StockServerOptions",
    "TernaryFormat",
    "UpstreamTimeout",
    "VllmOptions",
    "VllmServerOptions",
]
