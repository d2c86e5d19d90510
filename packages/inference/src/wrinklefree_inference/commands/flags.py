"""Options of the command line made from dataclasses, and dataclasses from what was given.

A field annotated with a `Flag` is one option; a field that is a dataclass itself stands for all of its own.
So an option that is added to a dataclass is in the command line, its help and its refusal by other engines,
without another line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from wf_formats.errors import RequestError
from wrinklefree_inference.options import Flag

Options = TypeVar("Options")
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class FlaggedField:
    """One option: its flag, the type of its value and its default."""

    flag: Flag
    kind: Any
    default: Any

    def parameter(self, takers: str) -> Parameter:
        """The parameter for typer; `takers` goes before the help."""
        flag = self.flag
        info = typer.Option(
            flag.flag, help=takers + flag.help, min=flag.minimum, max=flag.maximum, envvar=flag.envvar
        )
        kind = Annotated[self.kind, info]  # type: ignore[name-defined]  # a type that is known at run time
        return Parameter(flag.name, Parameter.KEYWORD_ONLY, default=self.default, annotation=kind)


def parts_of(kind: Any) -> Iterator[tuple[str, type | FlaggedField]]:
    """The fields of a dataclass that are dataclasses themselves or have a flag."""
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        hint = hints[one.name]
        if is_dataclass(hint):
            yield one.name, hint  # type: ignore[misc]
        for flag in get_args(hint)[1:]:
            if isinstance(flag, Flag):
                yield one.name, FlaggedField(flag, get_args(hint)[0], one.default)


def flags_of(kind: type) -> dict[str, FlaggedField]:
    """The flags of a dataclass and of the dataclasses in it, by parameter name."""
    found: dict[str, FlaggedField] = {}
    for _, part in parts_of(kind):
        found |= {part.flag.name: part} if isinstance(part, FlaggedField) else flags_of(part)
    return found


def with_flags(kinds: Mapping[str, type], *others: type) -> Callable[[Command], Command]:
    """Give a command the options of all `kinds`, by the engine that takes each, and of `others`.

    The command gets them as keywords (`**given`); a flag that not every engine takes says whose it is.
    """
    by_engine = {engine: flags_of(kind) for engine, kind in kinds.items()}
    found = {name: flag for kind in others for name, flag in flags_of(kind).items()}
    parameters = [flag.parameter("") for flag in found.values()]
    for name, flag in {name: flag for flags in by_engine.values() for name, flag in flags.items()}.items():
        takers = [engine for engine, flags in by_engine.items() if name in flags]
        parameters.append(flag.parameter("" if len(takers) == len(kinds) else f"{', '.join(takers)}: "))

    def decorate(command: Command) -> Command:
        own = signature(command, eval_str=True).parameters.values()
        kept = [parameter for parameter in own if parameter.kind is not Parameter.VAR_KEYWORD]
        command.__signature__ = Signature([*kept, *parameters])  # type: ignore[attr-defined]
        return command

    return decorate


def build(kind: type[Options], given: Mapping[str, Any], **own: Any) -> Options:
    """The dataclass with what was given by flags; `own` fields have no flag.

    Raises:
        RequestError: The dataclass refuses a value.
    """
    values = dict(own)
    for name, part in parts_of(kind):
        values[name] = given[part.flag.name] if isinstance(part, FlaggedField) else build(part, given)
    try:
        return kind(**values)
    except ValueError as error:
        raise RequestError(str(error)) from error


def arguments_of(options: Any) -> list[str]:
    """The command line that makes these options again: `--flag=value` for what is not its default."""
    found: list[str] = []
    for name, part in parts_of(type(options)):
        value = getattr(options, name)
        if not isinstance(part, FlaggedField):
            found += arguments_of(value)
        elif value is True:
            found.append(part.flag.flag)
        elif value != part.default:
            values = value if isinstance(value, list) else [value]
            found += [f"{part.flag.flag}={one}" for one in values]
    return found


def refuse_others(
    ctx: typer.Context, engine: str, kinds: Mapping[str, type], option: str = "--engine "
) -> None:
    """Raise RequestError for flags of other engines: they would have no effect.

    `option` is what goes before the names of `kinds` in a command line.

    What stands in the environment (a key) may stay there, whatever runs.
    """
    by_engine = {name: flags_of(kind) for name, kind in kinds.items()}
    known = {name: field for flags in by_engine.values() for name, field in flags.items()}
    given = [field for name, field in known.items() if name not in by_engine[engine] and is_typed(ctx, name)]
    if given:
        takers = [name for name, flags in by_engine.items() if given[0].flag.name in flags]
        names, verb = " and ".join(field.flag.flag for field in given), "has" if len(given) == 1 else "have"
        raise RequestError(f"{names} {verb} no effect with {option}{engine} (only with {', '.join(takers)})")


def is_typed(ctx: typer.Context, name: str) -> bool:
    """Whether an option stands in the command line itself."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"  # its module differs between releases of typer
