"""What the trainer can be told on its command line, and its help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from wf_formats.overrides import override
from wrinklefree.compose.recipes import GROUP as RECIPES
from wrinklefree.compose.roots import TRAIN, Root
from wrinklefree.compose.schemas import group_options
from wrinklefree.config.errors import ConfigError
from wrinklefree.stages.base import Stage
from wrinklefree.stages.registry import stage_by_number, stages

GROUPS = ("training", "model", "data", "optimizer", "distributed", "logging")
_EXIT_CODES = """Exit codes: 0 done (or done before), 1 the run failed or cannot start, 2 the configuration is
wrong, 143 / 130 stopped by SIGTERM / SIGINT with a checkpoint (start it again to resume)."""


@dataclass(frozen=True)
class Arguments:
    """overrides: of the configuration, the stage's option among them; elsewhere: not on this machine."""

    overrides: list[str]
    print_configuration: bool
    describe: bool
    elsewhere: bool


def refuse_below_one(parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str) -> None:
    """Ends with a message for the first of these options that is not at least 1."""
    for name in names:
        if (value := getattr(options, name)) < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}; give at least 1")


def parse(argv: Sequence[str] | None, root: Root = TRAIN) -> Arguments:
    """Args: root is the configuration of the application.

    Raises: ConfigError (an unknown stage, or a stage or experiment that is given twice)."""
    found = _parser(root.about).parse_intermixed_args(argv)
    named = _experiment_override(found.experiment, found.overrides)
    overrides = [*_stage_override(found.stage, found.overrides), *named, *found.overrides]
    return Arguments(overrides, found.cfg, found.describe, found.elsewhere)


def _stage_override(number: str | None, overrides: Sequence[str]) -> list[str]:
    if number is None:
        return []
    if doubled := [text for text in overrides if text.startswith("training=")]:
        raise ConfigError(f"--stage {number} and {doubled[0]} both choose the stage: give one of them")
    return [f"training={stage_by_number(number).option}"]


def _experiment_override(name: str | None, overrides: Sequence[str]) -> list[str]:
    if name is None:
        return []
    if doubled := [text for text in overrides if text.startswith("experiment=")]:
        raise ConfigError(f"--experiment {name} and {doubled[0]} both name the run: give one of them")
    return [override("experiment", name)]


def _parser(about: str) -> argparse.ArgumentParser:
    prog = os.environ.get("WF_PROG", "train.py")
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{about.format(prog=prog)}\n\n{_EXIT_CODES}",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-s", "--stage", metavar="NUMBER", help="the stage, instead of training=OPTION (see below)"
    )
    parser.add_argument(
        "-e", "--experiment", metavar="NAME", help="name that the stages share, instead of experiment=NAME"
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as training.max_steps=9")
    parser.add_argument("--cfg", action="store_true", help="print the configuration and leave")
    parser.add_argument(
        "--describe",
        action="store_true",
        help="check the configuration, print what the run would be and where as JSON, and leave",
    )
    parser.add_argument(
        "--elsewhere",
        action="store_true",
        help="with --describe: of a run on another machine, so no file of this one is looked for",
    )
    return parser


def _epilog() -> str:
    numbers = "\n".join(f"  {stage.number:4} {stage.title}; {_start(stage)}" for stage in stages())
    groups = "\n".join(f"  {group}: {', '.join(group_options(group))}" for group in GROUPS)
    recipes = ", ".join(group_options(RECIPES))
    return (
        f"stages:\n{numbers}\n\nconfig groups (group=option):\n{groups}\n\n"
        f"recipes, settings of a whole run (experiment=RECIPE): {recipes}"
    )


def _start(stage: Stage) -> str:
    return f"starts from {' or '.join(stage.accepts) or 'the dense model'}"
