"""A plan as a table, or as JSON."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from rich.console import Console
from rich.table import Table

from wf_formats.printable import legible
from wrinklefree.config.lengths import gradient_options, run_lengths
from wrinklefree.planning.plan import Layout, Plan
from wrinklefree.planning.request import Request

SCHEMA, SCHEMA_VERSION = "wrinklefree.plan", 1
_GIB = 1 << 30
_ROWS = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "optimizer's moments",
    "average": "average of the weights",
    "rounded": "rounded weights",
    "teacher": "teacher",
    "gathered": "gathered by fsdp",
    "activations": "activations",
    "loss": "loss and logits",
    "working": "backward of a block",
    "update": "(optimizer's step)",
}


def as_json(plan: Plan, request: Request) -> dict[str, Any]:
    """All figures; bytes, seconds, USD."""
    lengths, machine = run_lengths(plan.config), plan.machine
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "model": {
            "name": plan.model.name,
            "scheme": plan.model.scheme,
            "parameters": plan.model.num_parameters,
            "teacher": None if plan.teacher is None else plan.teacher.name,
        },
        "machine": dataclasses.asdict(machine) | {"usable_bytes": plan.usable_bytes},
        "run": {
            "stage": plan.config.training.stage,
            "tokens": plan.tokens,
            "tokens_per_step": lengths.tokens_per_step,
            "batch_size": gradient_options(plan.config).batch_size,
            "sequence_length_tokens": gradient_options(plan.config).sequence_length_tokens,
            "precision": str(gradient_options(plan.config).precision),
        },
        "layouts": [_layout(found) for found in plan.layouts],
        "chosen": plan.layouts.index(plan.chosen),
        "fits": plan.chosen.fits,
        "flop_per_token": plan.work.total,
        "utilization": plan.utilization,
        "tokens_per_s": plan.tokens_per_s,
        "hours": plan.hours,
        "usd": plan.cost,
        "command": command(plan, request),
        "notes": list(plan.notes()),
    }


def _layout(found: Layout) -> dict[str, Any]:
    return {
        "distributed": str(found.kind),
        "gradient_checkpointing": found.recomputes,
        "bytes": dataclasses.asdict(found.memory),
        "total_bytes": found.memory.total,
        "fits": found.fits,
        "largest_batch_size": found.largest_batch,
    }


def command(plan: Plan, request: Request) -> str:
    """What starts the chosen layout."""
    chosen = plan.chosen
    given = request.overrides
    own: list[str] = []
    if plan.machine.num_ranks > 1:
        given = [text for text in given if not text.lstrip("+").startswith("distributed=")]
        own = [
            f"distributed={chosen.kind}",
            f"distributed.devices={plan.machine.num_ranks // plan.machine.num_nodes}",
            f"distributed.num_nodes={plan.machine.num_nodes}",
        ]
    if chosen.recomputes and not gradient_options(plan.config).gradient_checkpointing:
        own.append("training.gradient_checkpointing=true")
    return shlex.join(["wf", "train", "-s", request.stage, *given, *own])


def show(plan: Plan, request: Request, console: Console) -> None:
    """What it takes, then what it costs, then what that rests on."""
    machine, training = plan.machine, gradient_options(plan.config)
    console.print(
        f"{legible(plan.model.name)}: {plan.model.num_parameters / 1e6:,.0f} million parameters, "
        f"{plan.model.scheme}, {training.precision}; {plan.config.training.stage} on {machine.name}"
    )
    console.print(
        f"{training.batch_size} sequences of {training.sequence_length_tokens:,} tokens a pass and rank, "
        f"{run_lengths(plan.config).tokens_per_step:,} tokens a step"
    )
    console.print(_memory_table(plan))
    console.print(_verdict(plan))
    console.print(_time(plan))
    console.print(f"start it:  {command(plan, request)}", soft_wrap=True, markup=False)
    for note in plan.notes():
        console.print(f"- {note}", style="dim", soft_wrap=True, markup=False)


def _memory_table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("GiB of a rank")
    for found in plan.layouts:
        again = ", checkpointing" if found.recomputes else ""
        table.add_column(f"{found.kind}{again}", justify="right")
    memories = [found.memory for found in plan.layouts]
    for key, name in _ROWS.items():
        if any(getattr(memory, key) for memory in memories):
            table.add_row(name, *(_gib(getattr(memory, key)) for memory in memories))
    table.add_row("total", *(_gib(memory.total) for memory in memories), style="bold")
    table.add_row("usable", *(_gib(plan.usable_bytes) for _ in memories))
    table.add_row("fits", *("yes" if found.fits else "no" for found in plan.layouts))
    table.add_row("largest batch_size", *(str(found.largest_batch) for found in plan.layouts))
    return table


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:,.2f}"


def _verdict(plan: Plan) -> str:
    chosen = plan.chosen
    if chosen.fits:
        how = f"{chosen.kind}{' with activation checkpointing' if chosen.recomputes else ''}"
        return f"fits: {how}, {_gib(plan.usable_bytes - chosen.memory.total)} GiB to spare"
    largest = max(plan.layouts, key=lambda found: found.largest_batch)
    if largest.largest_batch == 0:
        return "does not fit, not even one sequence: take more or larger GPUs, or shorter sequences"
    again = " and training.gradient_checkpointing=true" if largest.recomputes else ""
    return f"does not fit: training.batch_size={largest.largest_batch} does, with {largest.kind}{again}"


def _time(plan: Plan) -> str:
    if plan.tokens_per_s is None:
        return "speed: not measured for this; see below"
    assert plan.tokens is not None
    assert plan.hours is not None
    cost = "price not known: give --price" if plan.cost is None else f"${plan.cost:,.2f}"
    return (
        f"{plan.tokens_per_s:,.0f} tokens a second ({plan.work.total / 1e9:.2f} GFLOP a token), "
        f"{plan.tokens:,} tokens in {_duration(plan.hours)}, {cost}"
    )


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"
