"""`bench`: prompt and generation speed, beside llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wf_formats.errors import RequestError
from wf_formats.printable import printable
from wrinklefree_inference.bench.plan import BenchOptions
from wrinklefree_inference.commands.flags import build, with_flags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wrinklefree_inference.bench.plan import EngineResult

_ENGINES = ("native", "llamacpp")


@with_flags({"all": BenchOptions})
def bench(
    model: Annotated[Path, typer.Option(help="GGUF file, or folder of a packed model.")],
    engine: Annotated[str, typer.Option(help=f"Engine to measure: {' or '.join(_ENGINES)}.")] = "native",
    compare: Annotated[
        bool, typer.Option(help="Measure llama.cpp too, in turns, where xllamacpp is installed.")
    ] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every run there, with hardware and versions.")
    ] = None,
    **given: Any,
) -> None:
    """Measure prompt and generation speed like llama-bench, side by side with llama.cpp.

    The engines run in processes of their own and take turns. Speeds are those of the engine: no HTTP, no
    sampling but argmax; with several sequences, the tokens of all of them count. Memory is the resident
    set of the whole process, Python included.

    Examples:

      wf bench --model model.gguf --batch 1,16 --json speed.json

      wf bench --model model.gguf --depth 0,4096
    """
    import json

    from wf_formats.atomic import atomic_write_text
    from wf_formats.environment import OtherProcesses
    from wf_formats.targets import check_report
    from wrinklefree_inference.bench import report, session

    if not model.exists():
        raise RequestError(f"there is no file or folder {model}; check the path (wf list shows what is here)")
    if json_file is not None:
        check_report(json_file, report.REPORT_KEYS)
    options = build(BenchOptions, given, model=model)
    with OtherProcesses() as others:
        engines = _engines(engine, compare, model)
        results = session.run(options, engines, lambda text: typer.echo(f"  {text}", err=True))
    for line in report.table(options, results, others.cores):
        typer.echo(printable(line, most_chars=None))
    if json_file is not None:
        found = report.as_json(options, results, others.cores)
        atomic_write_text(json_file, json.dumps(found, indent=2) + "\n")
    _fail_if_refused(results)


def _engines(engine: str, compare: bool, model: Path) -> list[str]:
    """The engine asked for, and llama.cpp where it is wanted, there, and not the engine itself."""
    from importlib.util import find_spec

    if engine not in _ENGINES:
        raise RequestError(f"--engine takes {' or '.join(_ENGINES)}, got {engine!r}")
    if not compare or engine == "llamacpp":
        return [engine]
    if model.is_dir():
        typer.echo("llama.cpp reads GGUF files only: measuring the native engine alone", err=True)
        return [engine]
    if find_spec("xllamacpp") is None:
        typer.echo("xllamacpp is not installed: measuring the native engine alone", err=True)
        return [engine]
    return [engine, "llamacpp"]


def _fail_if_refused(results: Sequence[EngineResult]) -> None:
    """The first engine is what was asked for; the peer may refuse a file."""
    if results[0].error is not None:
        raise typer.Exit(1)
