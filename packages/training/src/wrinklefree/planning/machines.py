"""Machines that a run can be planned for: memory, peak, compute capability and price of a processor.

Memory is what `nvidia-smi` calls the total; peaks are dense bfloat16 ones of NVIDIA's data sheets (half of
those with sparsity). Prices are one provider's, on demand, as its page had them on a day; they change, and
others differ by a factor of three: `--price` is the one to trust.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass

from wf_formats.errors import RequestError
from wrinklefree.planning.work import CPU_PEAK, H100_PEAK

PRICES_READ = "2026-09-20"
PRICES_OF = "Lambda, on demand, machines of eight"
_MIB = 1 << 20
_ASKED = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9-]*)(?::(?P<count>-?\d+))?")
MOST_DEVICES = 1 << 16


@dataclass(frozen=True)
class Gpu:
    memory_mib: int
    peak: float
    """FLOP/s."""
    capability: tuple[int, int]
    """NVIDIA's compute capability: what its tensor cores multiply."""
    price: float | None = None
    """USD for an hour of one; None: not known here."""


GPUS = {
    "B200": Gpu(183_359, 2250e12, (10, 0), 6.69),
    "H200": Gpu(143_771, H100_PEAK, (9, 0)),
    "H100": Gpu(81_559, H100_PEAK, (9, 0), 3.99),
    "A100-80GB": Gpu(81_920, 312e12, (8, 0), 2.79),
    "A100": Gpu(40_960, 312e12, (8, 0), 1.99),
    "L40S": Gpu(46_068, 362e12, (8, 9)),
    "L4": Gpu(23_034, 121e12, (8, 9)),
    "RTX4090": Gpu(24_564, 165e12, (8, 9)),
}
"""By name, as clouds call them."""


@dataclass(frozen=True)
class Machine:
    """What a run has. num_ranks: processes, one for each GPU; of a CPU one on all cores.

    peak: FLOP/s of a rank; price: USD an hour of a GPU, or of the machine where it has none; None: not known.
    """

    name: str
    memory_bytes: int
    """Of a rank."""
    peak: float
    num_ranks: int
    on_cpu: bool
    price: float | None = None
    num_nodes: int = 1
    capability: tuple[int, int] | None = None
    """Of a GPU, as in Gpu; None: a CPU."""

    @property
    def price_per_hour(self) -> float | None:
        """Of all of it."""
        return None if self.price is None else self.price * self.num_ranks


def gpu_machine(asked: str, num_nodes: int, memory_bytes: int | None, price: float | None) -> Machine:
    """`H100:8` on each of the nodes. Raises: RequestError naming what there is."""
    match = _ASKED.fullmatch(asked)
    if match is None:
        raise RequestError(
            f"--gpu {asked}: give NAME or NAME:COUNT, such as H100:8; known: {', '.join(GPUS)}"
        )
    known = {name.lower(): name for name in GPUS}
    if (name := known.get(match["name"].lower())) is None:
        near = difflib.get_close_matches(match["name"].upper(), GPUS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise RequestError(
            f"--gpu {asked}: {match['name']} is not known here; known: {', '.join(GPUS)}.{hint}"
        )
    count = int(match["count"] or 1)
    for option, value in ((f"--gpu {asked}: a count", count), ("--num-nodes", num_nodes)):
        if not 1 <= value <= MOST_DEVICES:
            raise RequestError(f"{option} of {value} is not possible: give 1 to {MOST_DEVICES}")
    gpu = GPUS[name]
    return Machine(
        f"{name}:{count}" + (f" on {num_nodes} nodes" if num_nodes > 1 else ""),
        memory_bytes or gpu.memory_mib * _MIB,
        gpu.peak,
        count * num_nodes,
        on_cpu=False,
        price=gpu.price if price is None else price,
        num_nodes=num_nodes,
        capability=gpu.capability,
    )


def cpu_machine(cores: int, memory_bytes: int | None, price: float | None) -> Machine:
    """Cores with AVX-512, on which training was measured; memory: this machine's unless said."""
    if not 1 <= cores <= MOST_DEVICES:
        raise RequestError(f"--cpu {cores} is not possible: give 1 to {MOST_DEVICES} cores")
    return Machine(
        f"{cores} cores with AVX-512",
        memory_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        CPU_PEAK * cores,
        1,
        on_cpu=True,
        price=price,
    )
