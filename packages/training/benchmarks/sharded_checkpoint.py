"""Memory and time of a sharded checkpoint, beside gathering it on each rank and beside torch's own.

    uv run python packages/training/benchmarks/sharded_checkpoint.py --ranks 4 > checkpoint.json

Ranks are processes on this machine (gloo) that share a random Llama and AdamW's moments. First what was
loaded is compared with what was saved. Then, per arm, the largest rise of a rank's own (anonymous) memory,
over weights and moments of the whole model, and the seconds of the slowest rank:

    save, load    this project's folders; a rank's share is 1 / ranks
    background    the time that training waits for a save that goes on behind it
    gather        every rank gets all tensors, as one process would write them
    dcp           torch.distributed.checkpoint.save (the peer; its files hold pickles)
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from wf_formats.environment import environment
from wrinklefree.checkpoints.sharded_io import ShardedCheckpointIO
from wrinklefree.distributed import gather_from_ranks

_EVERY_S = 0.001


def _own_bytes() -> int:
    """Anonymous memory of this process; what is mapped from files goes back when it is wanted."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


class Measured:
    """Rises of memory and seconds by arm, of this rank."""

    def __init__(self) -> None:
        self.arms: dict[str, tuple[int, float]] = {}

    @contextmanager
    def arm(self, name: str) -> Iterator[None]:
        ctypes.CDLL(None).malloc_trim(0)
        dist.barrier()
        before = most = _own_bytes()
        ended = threading.Event()

        def watch() -> None:
            nonlocal most
            while not ended.wait(_EVERY_S):
                most = max(most, _own_bytes())

        thread = threading.Thread(target=watch)
        thread.start()
        start_s = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start_s
            ended.set()
            thread.join()
        self.arms[name] = (most - before, seconds)


def _sharded(options: argparse.Namespace) -> tuple[Any, Any, dict[str, Any], Callable[[], dict[str, Any]]]:
    """The whole model on meta, optimizer, weights and checkpoint of this rank."""
    torch.manual_seed(0)
    sizes = {"hidden_size": options.hidden, "intermediate_size": 4 * options.hidden, "vocab_size": 8192}
    config = LlamaConfig(**sizes, num_hidden_layers=options.layers, num_attention_heads=8)
    model: Any = LlamaForCausalLM(config)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = parameter.detach() * 0.01
    optimizer.step()
    optimizer.zero_grad()
    with torch.device("meta"):
        template = LlamaForCausalLM(config)
    weights = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}

    def checkpoint() -> dict[str, Any]:
        return {"state_dict": weights, "optimizer_states": [optimizer.state_dict()], "global_step": 1}

    return template, optimizer, weights, checkpoint


def _check(loaded: dict[str, Any], weights: dict[str, Any], optimizer: Any) -> None:
    for name, rows in loaded["state_dict"].items():
        assert torch.equal(rows, weights[name].to_local()), name
    for index, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            found = loaded["optimizer_states"][0]["state"][index][key]
            assert torch.equal(_local(found), _local(value)), (index, key)


def _local(value: Any) -> Any:
    return value.to_local() if isinstance(value, DTensor) else value


def _rank(number: int, options: argparse.Namespace, folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=options.ranks
    )
    template, optimizer, weights, checkpoint = _sharded(options)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    like = {f"optimizer_states.0.state.{index}": p for index, p in enumerate(parameters)}
    moments = [v for entry in optimizer.state.values() for v in entry.values() if isinstance(v, DTensor)]
    measured, path = Measured(), Path(folder)
    io = ShardedCheckpointIO(template, None, {"stage": "benchmark"})
    with measured.arm("save"):
        io.save_checkpoint(checkpoint(), path / "checkpoint")
    with measured.arm("load"):
        loaded = io.load_checkpoint(path / "checkpoint", like=like)
    _check(loaded, weights, optimizer)
    del loaded
    behind = ShardedCheckpointIO(template, None, {"stage": "benchmark"}, in_background=True)
    with measured.arm("background"):
        behind.save_checkpoint(checkpoint(), path / "behind")
    behind.wait()
    with measured.arm("gather"):
        whole = [tensor.full_tensor() for tensor in (*weights.values(), *moments)]
    del whole
    with measured.arm("dcp"):
        dcp.save(checkpoint(), checkpoint_id=path / "dcp")
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in (*weights.values(), *moments))
    ranks = gather_from_ranks(measured.arms)
    if number == 0:
        results.put((num_bytes, ranks))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = multiprocessing.get_context("spawn").SimpleQueue()
        multiprocessing.spawn(_rank, (options, folder, results), nprocs=options.ranks)
        num_bytes, ranks = results.get()
    arms = {
        name: {
            "most_memory_of_model": round(max(rank[name][0] for rank in ranks) / num_bytes, 3),
            "seconds": round(max(rank[name][1] for rank in ranks), 3),
        }
        for name in ranks[0]
    }
    report = {"ranks": options.ranks, "model_bytes": num_bytes, "arms": arms, "environment": environment()}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
