"""The `gcd` command line: sync (or sync-ssh), status. All but typer is imported when a command runs."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wf_deployer.framed import FramedGroup

if TYPE_CHECKING:
    from wf_deployer.sync.status import Status

app = typer.Typer(
    name="gcd",
    cls=FramedGroup,
    help="Send the checkout to remote machines, as .sync.conf says.",
    epilog="Start here: copy .sync.conf.example to .sync.conf, edit it, then gcd sync NAME --dry-run",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def sync(
    preset: Annotated[str, typer.Argument(help="Preset of .sync.conf.", show_default=False)],
    smart: Annotated[
        bool, typer.Option("--smart", help="Skip if nothing changed, or an active watch has sent it.")
    ] = False,
    watch: Annotated[bool, typer.Option(help="Go on sending changes until Ctrl-C.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, change nothing.")] = False,
    skip_deps: Annotated[bool, typer.Option("--skip-deps", help="No uv sync there afterwards.")] = False,
    delete: Annotated[
        bool,
        typer.Option("--delete", help="Delete there what was sent, unchanged there and gone here."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --delete: more than half of the files, or all of them.")
    ] = False,
    bwlimit: Annotated[
        str | None, typer.Option(help="Rate at most: 500 (KiB/s), 2M.", show_default=False)
    ] = None,
) -> None:
    """Send what git knows of the checkout, secrets left out, and run uv sync where its files changed.

    A path_fix line of .sync.conf, FILE:OLD=>NEW, makes the remote's FILE hold the path NEW
    wherever it holds OLD here: path_fix=pyproject.toml:/home/me/libs=>/data/libs.

    Examples:

    gcd sync desktop --dry-run

    gcd sync-ssh desktop --smart

    gcd sync-ssh desktop --watch
    """
    from wf_deployer.sync.config import find_config
    from wf_deployer.sync.rsync import RsyncOptions
    from wf_deployer.sync.sync_run import Sync, SyncOptions

    _check_combination(watch, dry_run, delete, force)
    config = find_config(Path.cwd())
    progress = not watch and typer.get_text_stream("stdout").isatty()
    options = SyncOptions(smart or watch, delete, force, skip_deps, RsyncOptions(bwlimit, progress))
    run = Sync(config, config.preset(preset), options, typer.echo)
    if dry_run:
        run.show_plan()
    elif watch:
        from wf_deployer.sync.watch import watch as send_changes

        send_changes(run, typer.echo)
    else:
        run.run()


def _check_combination(watch: bool, dry_run: bool, delete: bool, force: bool) -> None:
    from wf_formats.errors import RequestError

    if watch and dry_run:
        raise RequestError("--watch and --dry-run do not go together; leave one out")
    if force and not delete:
        raise RequestError("--force is for --delete alone; add --delete or leave it out")
    if force and watch:
        raise RequestError("--watch does not take --force: a checkout may be empty for a moment")


def status(
    preset: Annotated[
        str | None, typer.Argument(help="Preset of .sync.conf; all if left out.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, of one preset.")] = False,
) -> None:
    """Compare the checkout with the remote, file by file, and look for a watch.

    Ends with exit code 1 if a remote cannot be asked.

    Example: gcd status desktop --json
    """
    from wf_deployer.sync.config import find_config
    from wf_deployer.sync.snapshot import take_snapshot
    from wf_deployer.sync.status import read_status
    from wf_formats.errors import RequestError

    config = find_config(Path.cwd())
    presets = list(config.presets.values()) if preset is None else [config.preset(preset)]
    if json and len(presets) > 1:
        raise RequestError(f"--json shows one preset; name one of {', '.join(config.presets)}")
    snapshot = take_snapshot(config)
    found = [read_status(config, one, snapshot) for one in presets]
    if json:
        typer.echo(json_module.dumps(found[0][0].to_json(), indent=2))
    else:
        _print_table([status for status, _ in found])
    problems = [problem for _, problem in found if problem is not None]
    for problem in problems[:-1]:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise problems[-1]


def _print_table(rows: list[Status]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from wf_formats.printable import legible, printable

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("preset", "files", "in sync", "watch", "last sync", "target"):
        table.add_column(name, overflow="fold", no_wrap=name != "target")
    for row in rows:
        in_sync = {True: "yes", False: "no", None: "unknown"}[row.in_sync]
        watch = f"pid {row.watch_pid}" if row.watch_active else "no"
        values = (row.preset, row.files, in_sync, watch, row.last_sync or "never", f"{row.host}:{row.dir}")
        table.add_row(*(Text(printable(str(value))) for value in values))
    Console().print(table)
    for row in rows:
        if row.last_error is not None and row.in_sync is not None:  # else it is told as this command's
            typer.echo(f"{row.preset}: last error: {legible(row.last_error)}")


app.command("sync", short_help="Send the checkout; the same as sync-ssh.")(sync)
app.command("sync-ssh", short_help="Send the checkout over ssh.")(sync)
app.command("status", short_help="Compare with the remote.")(status)

if __name__ == "__main__":
    app(prog_name="gcd")
