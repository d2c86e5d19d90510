"""Memory, time and cost of a run, from its configuration and a machine."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from wf_formats.errors import RequestError
from wrinklefree.config.distributed import DistributedKind
from wrinklefree.config.lengths import gradient_options, run_lengths
from wrinklefree.config.ranges import MAX_SEQUENCES
from wrinklefree.config.root import TrainConfig
from wrinklefree.course import Course
from wrinklefree.errors import RunError
from wrinklefree.model_checks import ModelFacts, check_model
from wrinklefree.objectives.checking import check_objectives, teacher_wishes
from wrinklefree.objectives.registry import build_objective
from wrinklefree.objectives.weights import weight_schedule
from wrinklefree.planning.machines import PRICES_OF, PRICES_READ, Machine
from wrinklefree.planning.memory import RESERVE_SHARE, Memory, Sharding, Step, memory
from wrinklefree.planning.shapes import ModelShape, model_shape
from wrinklefree.planning.work import Work, teacher_utilization, tokens_per_s, utilization, work
from wrinklefree.teachers.local import Dtype, LocalTeacherConfig, dtype_beside
from wrinklefree.teachers.registry import check_wishes

_COUNTED = ("continue_pretrain", "logits_distill", "layerwise")
"""Objectives whose memory and work beyond a pass are known."""
_STATES = "layerwise"
_BYTES = {Dtype.float32: 4, Dtype.bfloat16: 2}
_HOUR_S = 3600


@dataclass(frozen=True)
class Layout:
    """How a run can be laid out, and what it needs. largest_batch: sequences of a pass that fit, or 0."""

    kind: DistributedKind
    recomputes: bool
    memory: Memory
    fits: bool
    largest_batch: int


@dataclass(frozen=True)
class Plan:
    """Args: kinds are the strategies to compare, the configuration's first; share replaces the measured
    utilization."""

    config: TrainConfig
    machine: Machine
    model: ModelShape
    teacher: ModelShape | None
    kinds: Sequence[DistributedKind]
    share: float | None = None

    @property
    def usable_bytes(self) -> int:
        return int(self.machine.memory_bytes * (1 - RESERVE_SHARE))

    @cached_property
    def layouts(self) -> list[Layout]:
        return [self._layout(kind, again) for kind in self.kinds for again in (False, True)]

    @property
    def configured(self) -> Layout:
        """As the configuration has it."""
        again = gradient_options(self.config).gradient_checkpointing
        return next(found for found in self.layouts if found.recomputes is again)

    @property
    def chosen(self) -> Layout:
        """The configured one if it fits, else the first that does; where none does the configured one."""
        fitting = [found for found in (self.configured, *self.layouts) if found.fits]
        return fitting[0] if fitting else self.configured

    @cached_property
    def work(self) -> Work:
        length = gradient_options(self.config).sequence_length_tokens
        return work(self.model, length, self.chosen.recomputes, self.teacher, self._row_tokens)

    @cached_property
    def _row_tokens(self) -> int:
        options = gradient_options(self.config).objectives
        return max(build_objective(name, options[name]).row_tokens for name in active_objectives(self.config))

    @property
    def utilization(self) -> float | None:
        """Of the peak; None: nobody has measured it."""
        measured = utilization(self.model, gradient_options(self.config).precision, self.machine.on_cpu)
        return measured if self.share is None else self.share

    @property
    def tokens_per_s(self) -> float | None:
        """Of all ranks."""
        if self.utilization is None:
            return None
        precision = gradient_options(self.config).precision
        of_teacher = teacher_utilization(precision, self.machine.on_cpu) if self.share is None else self.share
        each = tokens_per_s(self.work, self.machine.peak, self.utilization, of_teacher)
        return each * self.machine.num_ranks

    @property
    def tokens(self) -> int | None:
        """Of the run; with training.minutes those that there is time for."""
        minutes = gradient_options(self.config).minutes
        if minutes is not None:
            return None if self.tokens_per_s is None else int(self.tokens_per_s * minutes * 60)
        lengths = run_lengths(self.config)
        return lengths.max_steps * lengths.tokens_per_step

    @property
    def hours(self) -> float | None:
        if self.tokens is None or self.tokens_per_s is None:
            return None
        return self.tokens / self.tokens_per_s / _HOUR_S

    @property
    def cost(self) -> float | None:
        """USD."""
        price = self.machine.price_per_hour
        return None if price is None or self.hours is None else price * self.hours

    def _layout(self, kind: DistributedKind, recomputes: bool) -> Layout:
        def needed(batch_size: int) -> Memory:
            step = replace(self._step, batch_size=batch_size, recomputes=recomputes)
            sharding = Sharding(kind, self.machine.num_ranks)
            has_average = gradient_options(self.config).ema_decay is not None
            return memory(self.model, step, sharding, self.config.optimizer, self._teacher_bytes, has_average)

        sizes = range(1, MAX_SEQUENCES + 1)
        largest = bisect_right(sizes, self.usable_bytes, key=lambda size: needed(size).total)
        asked = self._step.batch_size
        return Layout(kind, recomputes, needed(asked), asked <= largest, largest)

    @cached_property
    def _step(self) -> Step:
        training, active = gradient_options(self.config), active_objectives(self.config)
        chunks = [getattr(training.objectives[name], "chunk_tokens", None) for name in active]
        return Step(
            training.batch_size,
            self._row_tokens * training.sequence_length_tokens,
            training.precision,
            self.machine.on_cpu,
            chunk_tokens=max((chunk for chunk in chunks if chunk is not None), default=None),
            compares_states=_STATES in active,
        )

    @property
    def _teacher_bytes(self) -> int:
        if self.teacher is None:
            return 0
        options = self.config.model.teacher
        dtype = options.dtype or dtype_beside(gradient_options(self.config).precision)
        return _BYTES[dtype] * self.teacher.num_parameters

    def notes(self) -> Iterator[str]:
        """What the figures rest on, and what is not in them."""
        name = f"{self.model.scheme}, {gradient_options(self.config).precision}"
        if self.share is not None:
            yield f"utilization {self.share:.3g} of the peak: as given"
        elif self.utilization is None:
            yield f"no speed: {name} was not measured on such a machine; give --utilization"
        elif self.machine.on_cpu:
            yield (
                f"utilization {self.utilization:.2f} of the float32 peak: measured with SmolLM2-135M on 2 "
                "cores with AVX-512; other numbers of cores are taken in proportion"
            )
        else:
            yield (
                f"utilization {self.utilization:.3f} of the peak: measured with SmolLM2-135M on an H100 "
                f"({name}); larger models keep a GPU busier, and other GPUs are taken to be used as well"
            )
        if self.machine.num_ranks > 1:
            yield "no time is counted for what the GPUs tell each other: not measured"
        if self.machine.num_ranks > 1 and DistributedKind.fsdp in self.kinds:
            yield "memory with fsdp follows from how it shards: not measured on a GPU"
        yield f"{RESERVE_SHARE:.0%} of the memory is left for context, workspaces and fragmentation"
        if self.machine.price is not None and self.cost is not None and not self.machine.on_cpu:
            known = f"without --price: {PRICES_OF}, {PRICES_READ}"
            yield f"price of a GPU-hour: ${self.machine.price:g} ({known})"
        if others := [name for name in active_objectives(self.config) if name not in _COUNTED]:
            yield f"what {', '.join(others)} needs beyond a pass with the teacher is not counted"
        if self.teacher is None and _needs_teacher(self.config):
            kind = self.config.model.teacher.kind
            yield f"a teacher of kind {kind} takes no memory here, and its time is not counted"


def make_plan(
    config: TrainConfig, machine: Machine, kinds: Sequence[DistributedKind], share: float | None = None
) -> Plan:
    """Raises: RequestError (also for what the trainer would refuse), SourceError (no config.json)."""
    of = config.model
    model, teacher = model_shape(of.source, of.name, of.scheme, of.sub_norm), _teacher(config)
    _check(config, model, teacher)
    return Plan(config, machine, model, teacher, kinds, share)


def _check(config: TrainConfig, model: ModelShape, teacher: ModelShape | None) -> None:
    """Raises: RequestError for what the trainer would refuse of these models before its first step."""
    check_model(config, ModelFacts(model.family.model_type, model.decoder.context_tokens))
    options, active = gradient_options(config).objectives, active_objectives(config)
    objectives = {name: build_objective(name, options[name]) for name in active}
    is_sharded = config.distributed.kind.is_sharded
    taught = None if teacher is None else teacher.outputs
    try:
        check_wishes(config.model.teacher.kind, teacher_wishes(objectives, active))
        check_objectives(objectives, active, model.outputs, taught, is_sharded)
    except RunError as error:
        raise RequestError(str(error)) from error


def active_objectives(config: TrainConfig) -> list[str]:
    """Those that ever have a weight above 0, in the configuration's order."""
    training = gradient_options(config)
    course = Course(run_lengths(config).max_steps)
    weights = weight_schedule(training.objectives, training.curriculum, course)
    return [name for name in training.objectives if name in weights.ever_active()]


def _needs_teacher(config: TrainConfig) -> bool:
    options = gradient_options(config).objectives
    return any(build_objective(name, options[name]).needs_teacher for name in active_objectives(config))


def _teacher(config: TrainConfig) -> ModelShape | None:
    """The teacher that is held in memory, if there is one."""
    options = config.model.teacher
    if not _needs_teacher(config) or not isinstance(options, LocalTeacherConfig):
        return None
    source = options.source or config.model.source
    name = options.name if options.source else config.model.name
    return model_shape(source, name, "none", sub_norm=False)
