"""The C++ module (csrc/module.cpp)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS: int

class Matrix:
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def group_size(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def has_minimums(self) -> bool: ...
    @property
    def num_bytes(self) -> int: ...
    def unpack(self) -> tuple[NDArray[np.int8], NDArray[np.float32]]: ...
    def unpack_phases(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]: ...
    def offsets(self) -> NDArray[np.float32] | None: ...
    def linear(
        self, x: NDArray[np.float32], precision: str = "int8", num_threads: int = 0
    ) -> NDArray[np.float32]: ...
    def parts(self) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint16]]: ...
    @staticmethod
    def from_parts(
        data: NDArray[np.uint8],
        row_scales: NDArray[np.float32],
        group_scales: NDArray[np.uint16],
        rows: int,
        cols: int,
        group_size: int,
        format: str,
        has_minimums: bool = False,
    ) -> Matrix: ...
    def in_slab(self) -> Matrix: ...

class LowRank:
    def __init__(self, up: NDArray[np.float32], down: NDArray[np.float32]) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def parts(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    @staticmethod
    def from_parts(
        down: NDArray[np.float32], up: NDArray[np.float32], rows: int, cols: int, rank: int
    ) -> LowRank: ...

class Screen:
    @property
    def near(self) -> Matrix: ...
    @property
    def far(self) -> Matrix: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def bounds(
        self, states: NDArray[np.float32], num_threads: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...
    @staticmethod
    def from_parts(
        near: Matrix,
        far: Matrix,
        directions: NDArray[np.float32],
        factors: NDArray[np.float32],
        errors: NDArray[np.float32],
    ) -> Screen: ...

class Rope:
    def __init__(self, inverse_frequencies: list[float], attention_factor: float) -> None: ...

class LayerAttention:
    def __init__(self, rope: int, window: int) -> None: ...

class DecoderConfig:
    def __init__(self, **values: Any) -> None: ...

class LayerWeights:
    def __init__(self, **tensors: Any) -> None: ...

class ModelWeights:
    def __init__(
        self,
        config: DecoderConfig,
        embedding: Any,
        head: Any,
        screen: Screen | None,
        final_norm: NDArray[np.float32],
        layers: list[LayerWeights],
    ) -> None: ...

class Decoder:
    def __init__(self, weights: ModelWeights, num_pages: int, cache_type: str, num_threads: int) -> None: ...
    @property
    def num_pages(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def num_threads(self) -> int: ...
    def forward(
        self,
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        pages: NDArray[np.int32],
        outputs: NDArray[np.int32],
        counts: NDArray[np.int32] | None,
        depths: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]: ...
    @property
    def screen_use(self) -> tuple[int, int]: ...
    def hidden_states(self, rows: NDArray[np.int32]) -> NDArray[np.float32]: ...

def info() -> dict[str, Any]: ...
def select_isa(name: str) -> None: ...
def pack(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    format: str,
    num_threads: int = 0,
    offsets: NDArray[np.float32] | None = None,
) -> Matrix: ...
def pack_phases(phases: NDArray[np.uint8], scales: NDArray[np.float32], num_threads: int = 0) -> Matrix: ...
def pack_screen(
    head: Matrix, directions: NDArray[np.float32], factors: NDArray[np.float32], num_threads: int = 0
) -> Screen: ...
def packed_shape(rows: int, cols: int, group_size: int, format: str) -> tuple[int, int, int]: ...
def measure_bandwidth(bytes: int, passes: int = 1, num_threads: int = 0, repeats: int = 5) -> list[float]: ...
def measure_peak(
    kind: str, rounds: int = 1_000_000, num_threads: int = 0, repeats: int = 5
) -> list[float]: ...
def time_products(
    matrices: Sequence[Matrix],
    x: NDArray[np.float32],
    precision: str = "int8",
    num_threads: int = 0,
    repeats: int = 5,
) -> list[float]: ...
def time_rows(
    kernel: str, x: NDArray[np.float32], y: NDArray[np.float32], num_threads: int = 1, repeats: int = 5
) -> tuple[NDArray[np.float32], list[float]]: ...
def time_attention(
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    cache_type: str = "f16",
    window: int = 0,
    layers: int = 1,
    num_threads: int = 1,
    repeats: int = 5,
) -> tuple[NDArray[np.float32], list[float]]: ...
def sample(
    logits: NDArray[np.float32],
    temperature: NDArray[np.float32],
    top_k: NDArray[np.int32],
    top_p: NDArray[np.float32],
    min_p: NDArray[np.float32],
    repetition_penalty: NDArray[np.float32],
    history: Sequence[NDArray[np.int32]],
    seeds: NDArray[np.uint64],
    counters: NDArray[np.uint64],
    num_logprobs: NDArray[np.int32],
    *,
    masks: Sequence[NDArray[np.uint32] | None] | None = None,
    bias_ids: Sequence[NDArray[np.int32] | None] | None = None,
    bias_values: Sequence[NDArray[np.float32] | None] | None = None,
    presence_penalty: NDArray[np.float32] | None = None,
    frequency_penalty: NDArray[np.float32] | None = None,
    answers: Sequence[NDArray[np.int32] | None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32], list[NDArray[np.int32]], list[NDArray[np.float32]]]: ...
def sample_uniform(seed: int, counter: int) -> float: ...

# Training kernels: tensors are addresses, which ternary_kernels.training checks first.
def borrow_openmp(address: int) -> None: ...
def quantize_rows(
    threads: int,
    x: int,
    bf16: bool,
    rows: int,
    cols: int,
    smallest: float,
    stochastic: bool,
    seed: int,
    codes: int,
    inverse: int,
) -> int: ...
def quantize_columns(
    threads: int,
    x: int,
    bf16: bool,
    rows: int,
    cols: int,
    factors: int,
    smallest: float,
    stochastic: bool,
    seed: int,
    codes: int,
    inverse: int,
) -> bool: ...
def scale_sums(
    threads: int, sums: int, row_factors: int, col_factors: int, out: int, bf16: bool, rows: int, cols: int
) -> None: ...
def ternarize(
    threads: int, weight: int, rows: int, cols: int, group: int, smallest: float, codes: int, scales: int
) -> int: ...
def group_product(
    threads: int,
    weights: int,
    scales: int,
    rows: int,
    cols: int,
    group: int,
    codes: int,
    inverse: int,
    out: int,
    bf16: bool,
    tokens: int,
) -> None: ...
def norm(
    threads: int, x: int, bf16: bool, rows: int, cols: int, weight: int, eps: float, out: int, factors: int
) -> None: ...
def norm_backward(
    threads: int,
    grad: int,
    bf16: bool,
    rows: int,
    cols: int,
    x: int,
    weight: int,
    factors: int,
    grad_x: int,
    grad_weight: int,
) -> None: ...
def swiglu(threads: int, gate: int, bf16: bool, rows: int, cols: int, up: int, out: int) -> None: ...
def swiglu_backward(
    threads: int,
    grad: int,
    bf16: bool,
    rows: int,
    cols: int,
    gate: int,
    up: int,
    grad_gate: int,
    grad_up: int,
) -> None: ...
def turn(
    threads: int,
    x: int,
    bf16: bool,
    rows: int,
    cols: int,
    cosine: int,
    sine: int,
    bf16_angles: bool,
    tokens: int,
    size: int,
    backward: bool,
    out: int,
) -> None: ...
def cross_entropy(
    threads: int,
    logits: int,
    bf16: bool,
    rows: int,
    cols: int,
    labels: int,
    ignored: int,
    grad_factor: float,
    losses: int,
) -> None: ...
def divergence(
    threads: int,
    logits: int,
    bf16: bool,
    rows: int,
    cols: int,
    expected: int,
    grad_factor: float,
    losses: int,
) -> None: ...
def adamw(
    threads: int,
    weights: list[int],
    grads: list[int],
    first: list[int],
    second: list[int],
    sizes: list[int],
    bits: list[int],
    numbers: list[int],
    steps: list[int],
    learning_rates: list[float],
    weight_decays: list[float],
    beta1: float,
    beta2: float,
    eps: float,
) -> int: ...
def int8_columns(
    threads: int,
    weights: int,
    scales: int,
    rows: int,
    cols: int,
    group: int,
    most: float,
    columns: int,
    col_scales: int,
) -> None: ...
def latent_codes(
    threads: int, latent: int, scales: int, rows: int, cols: int, group: int, codes: int
) -> None: ...
def latent_gradients(
    threads: int, latent: int, scales: int, rows: int, cols: int, group: int, grad: int, grad_scales: int
) -> None: ...
def code_gradients(
    threads: int, codes: int, grad: int, rows: int, cols: int, group: int, grad_scales: int
) -> None: ...
def compensate(
    threads: int, values: int, codes: int, factors: int, scales: int, size: int, cols: int
) -> None: ...
def descend(
    threads: int, values: int, codes: int, factors: int, scales: int, size: int, cols: int
) -> None: ...
def softmax(
    threads: int,
    scores: int,
    bf16: bool,
    rows: int,
    cols: int,
    batches: int,
    queries: int,
    mask: int,
    scale: float,
) -> None: ...
def softmax_backward(
    threads: int,
    grad: int,
    bf16: bool,
    rows: int,
    cols: int,
    shares: int,
    batches: int,
    queries: int,
    mask: int,
    scale: float,
) -> None: ...
