"""The arguments of `wf plan`: the configuration of the run that is planned, and its machine.

The configuration is composed as `wf train` does it, with the same overrides, so a plan is of a run that could
be started, and what the trainer refuses is refused here.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wf_formats.errors import RequestError
from wf_formats.overrides import override
from wrinklefree.compose.composing import compose_config
from wrinklefree.compose.schemas import group_options
from wrinklefree.config.distributed import DistributedKind
from wrinklefree.config.errors import ConfigError
from wrinklefree.config.lengths import gradient_options
from wrinklefree.config.optimizer import AdamWConfig, MomentKind
from wrinklefree.config.root import TrainConfig
from wrinklefree.config.training import GradientConfig, Trained
from wrinklefree.device_checks import no_fp8, too_old_for_fp8, wants_fp8
from wrinklefree.objectives.registry import build_objective
from wrinklefree.planning.machines import Machine, cpu_machine, gpu_machine
from wrinklefree.planning.plan import active_objectives
from wrinklefree.stages.registry import stage_by_number, stage_of, stages

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[kKmMbBtT]?)")
_GIB = 1 << 30
_LEAST, _MOST = 1e-6, 1e6
"""Of prices, memory and utilization; anything else is a slip."""
_OURS = {
    "training": "--stage",
    "model": "--model",
    "distributed.devices": "--gpu",
    "distributed.accelerator": "--gpu or --cpu",
    "distributed.num_nodes": "--num-nodes",
}
"""Overrides that an option gives."""
_LENGTHS = {
    "training.max_tokens": "tokens",
    "training.sequence_length_tokens": "seq",
    "training.batch_size": "batch",
}
"""Overrides that an option gives where it is there."""
_DESCRIPTION = """Memory, speed, time and cost of a training run, before there is one.

    {prog} -m qwen3_4b --gpu H100:8 --tokens 10B
    {prog} -m smollm2_135m -s 3 --cpu 2 training.precision=int8 --json

KEY=VALUE are those of wf train. Nothing is started, and no weight is read or fetched."""


@dataclass(frozen=True)
class Request:
    """kinds: strategies to compare, the first being the configuration's. overrides: of the run."""

    config: TrainConfig
    machine: Machine
    kinds: list[DistributedKind]
    share: float | None
    as_json: bool
    stage: str
    overrides: list[str]


def read(argv: Sequence[str] | None) -> Request:
    """Raises: ConfigError, RequestError."""
    options = _parser().parse_intermixed_args(argv)
    _check_overrides(options)
    if options.utilization is not None and options.gpu is not None and options.utilization > 1:
        raise RequestError(
            f"--utilization {options.utilization:g} is more than all of a GPU: give 0.4 for 40 %"
        )
    machine = _machine(options)
    given = [*_model(options.model), *_lengths(options), *_precision(options, machine), *options.overrides]
    names = [f"training={_stage(options.stage)}", *given]
    config = compose_config([*names, *_distributed(machine, options.overrides)])
    _check(config, machine)
    kinds = [config.distributed.kind, *_others(config, machine, options.overrides)]
    return Request(config, machine, kinds, options.utilization, options.json, options.stage, given)


def _parser() -> argparse.ArgumentParser:
    prog = os.environ.get("WF_PROG", "plan")
    parser = argparse.ArgumentParser(
        prog=prog,
        description=_DESCRIPTION.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-m",
        "--model",
        required=True,
        help="a preset (configs/model), a folder with a config.json, or a repository of the hub",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--gpu", metavar="NAME:COUNT", help="GPUs of each node: H100:8")
    where.add_argument("--cpu", type=int, metavar="CORES", help="cores with AVX-512, and no GPU")
    parser.add_argument("--num-nodes", type=int, default=1, metavar="N", help="machines that train together")
    parser.add_argument("-s", "--stage", default="2", metavar="NUMBER", help="a stage with gradients (2)")
    parser.add_argument("--tokens", type=_amount, metavar="N", help="of the run: 500M, 10B")
    parser.add_argument("--seq", type=int, metavar="N", help="tokens of a sequence")
    parser.add_argument("--batch", type=int, metavar="N", help="sequences of a pass of a rank")
    parser.add_argument(
        "--price", type=_positive, metavar="USD", help="of a GPU-hour, or of the CPU machine's"
    )
    parser.add_argument("--memory", type=_positive, metavar="GIB", help="of a GPU, or of the CPU machine")
    parser.add_argument(
        "--utilization", type=_positive, metavar="SHARE", help="of the peak, instead of the measured one"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the run, as for wf train")
    return parser


def _amount(text: str) -> int:
    match = _AMOUNT.fullmatch(text)
    amount = float(match["number"]) * _UNITS[match["unit"].lower()] if match else 0.0
    if not 1 <= amount < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens; give one such as 500M or 10B")
    return round(amount)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _LEAST <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {_LEAST:g} to {_MOST:g}")
    return value


def _check_overrides(options: argparse.Namespace) -> None:
    """Raises: ConfigError for one that an option of this command gives."""
    lengths = {key: f"--{name}" for key, name in _LENGTHS.items() if getattr(options, name) is not None}
    ours = _OURS | lengths
    for text in options.overrides:
        key = text.lstrip("+").partition("=")[0]
        if key in ours:
            raise ConfigError(f"{text}: leave it out; {ours[key]} gives it")


def _model(asked: str) -> list[str]:
    """Overrides that name the model. Raises: ConfigError for what is none of the three."""
    presets = group_options("model")
    if asked in presets:
        return [f"model={asked}"]
    if asked and Path(asked).is_dir():
        return ["model.source=path", override("model.name", asked)]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", asked) and not asked.startswith((".", "/")):
        return ["model.source=hub", override("model.name", asked)]
    near = difflib.get_close_matches(asked, presets, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"--model {asked}: no preset, no folder here and no OWNER/NAME of the hub; presets: "
        f"{', '.join(presets)}.{hint}"
    )


def _stage(number: str) -> str:
    """The option of the stage. Raises: ConfigError for one without steps."""
    stage = stage_by_number(number)
    if not issubclass(stage.config, GradientConfig):
        with_steps = [each.number for each in stages() if issubclass(each.config, GradientConfig)]
        raise ConfigError(
            f"--stage {number} has no optimizer's steps to plan; stages that have: {', '.join(with_steps)}"
        )
    return stage.option


def _lengths(options: argparse.Namespace) -> list[str]:
    found = []
    if options.tokens is not None:
        found += ["training.max_steps=null", f"training.max_tokens={options.tokens}"]
    if options.seq is not None:
        found.append(f"training.sequence_length_tokens={options.seq}")
    if options.batch is not None:
        found.append(f"training.batch_size={options.batch}")
    return found


def _precision(options: argparse.Namespace, machine: Machine) -> list[str]:
    """bf16 on a GPU, where nobody trains in float32, unless it is said."""
    is_said = any(text.lstrip("+").startswith("training.precision=") for text in options.overrides)
    return [] if machine.on_cpu or is_said else ["training.precision=bf16"]


def _distributed(machine: Machine, overrides: Sequence[str]) -> list[str]:
    """Overrides for as many ranks, with DDP unless the strategy is said."""
    alone = machine.num_ranks == 1 or _says_strategy(overrides)
    return [
        *([] if alone else ["distributed=ddp"]),
        f"distributed.devices={machine.num_ranks // machine.num_nodes}",
        f"distributed.num_nodes={machine.num_nodes}",
        f"distributed.accelerator={'cpu' if machine.on_cpu else 'gpu'}",
    ]


def _says_strategy(overrides: Sequence[str]) -> bool:
    return any(re.match(r"\+{0,2}distributed(\.kind)?=", text) for text in overrides)


def _others(config: TrainConfig, machine: Machine, overrides: Sequence[str]) -> list[DistributedKind]:
    """FSDP beside DDP, where nothing is said and the stage can be sharded with this configuration."""
    if machine.num_ranks == 1 or _says_strategy(overrides):
        return []
    sharded = replace(config, distributed=replace(config.distributed, kind=DistributedKind.fsdp))
    options = gradient_options(config).objectives
    try:
        stage_of(config).check(sharded)
        for name in active_objectives(config):
            build_objective(name, options[name]).check_sharded()
    except ValueError:  # also a ConfigError
        return []
    return [DistributedKind.fsdp]


def _machine(options: argparse.Namespace) -> Machine:
    memory_bytes = None if options.memory is None else round(options.memory * _GIB)
    if options.gpu is not None:
        return gpu_machine(options.gpu, options.num_nodes, memory_bytes, options.price)
    if options.num_nodes != 1:
        raise RequestError(
            f"--num-nodes {options.num_nodes} with --cpu: one machine is planned; leave it out"
        )
    return cpu_machine(options.cpu, memory_bytes, options.price)


def _check(config: TrainConfig, machine: Machine) -> None:
    """Raises: ConfigError for what a run would refuse on that machine, or what no plan can be made of."""
    training, optimizer = config.training, config.optimizer
    assert isinstance(training, GradientConfig)
    if config.distributed.kind is DistributedKind.tensor_parallel_experimental:
        raise ConfigError(
            f"distributed={config.distributed.kind} is experimental and not planned: leave it out"
        )
    if wants_fp8(config) and (reason := too_old_for_fp8(machine.capability)) is not None:
        raise ConfigError(no_fp8(machine.name, reason))
    if training.trained is not Trained.all:
        raise ConfigError(f"training.trained={training.trained}: only training.trained=all can be planned")
    if (
        isinstance(optimizer, AdamWConfig)
        and optimizer.state is not MomentKind.float32
        and not machine.on_cpu
    ):
        raise ConfigError(
            f"optimizer.state={optimizer.state} has kernels for the CPU alone: set optimizer.state=float32, "
            "or optimizer=adamw_8bit"
        )
