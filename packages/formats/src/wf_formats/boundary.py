"""The frame around an application: what its user can mend is one line, anything else a bug of ours.

error                                            shown as                            exit code
UserError                                        `error: message`                    its exit_code
OSError of the disk or of permissions, memory    one line with the path and a fix    1
KeyboardInterrupt                                `stopped`                           130
BrokenPipeError                                  nothing                             141
a Python package that is not installed          its name, and how to install it      1
anything else                                    traceback and BUG_NOTE              1 (Python's own)

A line may hold names and words of files of others; what would steer the terminal is written out.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wf_formats.errors import RequestError, UserError
from wf_formats.printable import legible

BUG_NOTE = "This is a bug of WrinkleFree: please report it with the lines above."
_FIXES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a path that you may use, or change its permissions",
    errno.EPERM: "choose a path that you may use, or change its permissions",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "check the path",
    errno.ELOOP: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EADDRINUSE: "choose another port",
}


_DISTRIBUTIONS = {"hydra": "hydra-core", "sky": "skypilot", "yaml": "pyyaml"}
"""Of modules that are called otherwise than what installs them."""
_OWN = ("bitnet_arch", "data_handler", "fairy2", "ternary_kernels", "wf_", "wrinklefree")
"""How modules of this workspace begin, which no registry has."""


@contextmanager
def boundary(stopped: str = "stopped") -> Iterator[None]:
    """Runs an application's command; SystemExit passes.

    Args:
        stopped: the line after Ctrl-C.

    Raises:
        SystemExit: after an error that the user can mend.
    """
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"{error.label}: {legible(str(error))}\n")
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{stopped}\n")
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit flushes into it again
        raise SystemExit(141) from None
    except MemoryError as error:
        sys.stderr.write("error: out of memory; use a smaller model, batch or context, or a larger machine\n")
        raise SystemExit(1) from error
    except OSError as error:
        if error.errno not in _FIXES:
            _call_a_bug(error)
            raise
        sys.stderr.write(f"error: {legible(explained(error))}\n")
        raise SystemExit(1) from error
    except ModuleNotFoundError as error:
        if (missing := not_installed(error)) is None:
            _call_a_bug(error)
            raise
        sys.stderr.write(f"error: {missing}\n")
        raise SystemExit(1) from error
    except Exception as error:
        _call_a_bug(error)
        raise


def not_installed(error: ModuleNotFoundError) -> str | None:
    """What to install; None where a package is there that lacks one of its modules."""
    if not error.name or "." in error.name:
        return None
    way = "`uv sync` in a checkout of WrinkleFree brings all that its commands need"
    if not error.name.startswith(_OWN):
        name = _DISTRIBUTIONS.get(error.name, error.name.replace("_", "-"))
        way += f", `uv pip install {name}` it alone"
    return f"the Python package {error.name} is not installed for {sys.executable}: {way}"


def _call_a_bug(error: Exception) -> None:
    """Once: a command and the group that it is of are framed both."""
    if BUG_NOTE not in getattr(error, "__notes__", ()):
        error.add_note(BUG_NOTE)


class Framed:
    """Put before typer's command or group class: its invocation runs inside the frame.

    Every command that has a path among its parameters is one, not its group alone: an empty path is refused.
    """

    stopped = "stopped"
    """The line after Ctrl-C."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What the class beside it does; a path that is empty (an unset variable of a script) is refused."""
        parser = self.make_parser(ctx)  # type: ignore[attr-defined]  # of that class
        given = parser.parse_args(list(args))[0] if args else {}
        rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        with boundary(self.stopped):
            _refuse_empty_paths(self.params, given, ctx.params)  # type: ignore[attr-defined]
        return rest

    def invoke(self, ctx: Any) -> Any:
        """What the class beside it does."""
        with boundary(self.stopped):
            return super().invoke(ctx)  # type: ignore[misc]  # of that class


def _refuse_empty_paths(
    parameters: Iterable[Any], given: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Args: values are what the `given` texts have become; `Path("")` is `Path(".")`, the current folder."""
    for parameter in parameters:
        value, text = values.get(parameter.name), given.get(parameter.name)
        paths, texts = (list(one) if isinstance(one, list | tuple) else [one] for one in (value, text))
        if "" in texts and any(isinstance(path, Path) for path in paths):
            longest = max(parameter.opts, key=len)
            name = longest if longest.startswith("-") else parameter.name.upper()
            raise RequestError(f"{name} is empty: give a path; the current folder is .")


def given_path(text: str) -> Path:
    """For argparse, as `type=given_path`: a path that is not empty."""
    if not text:
        raise ArgumentTypeError("it is empty: give a path; the current folder is .")
    return Path(text)


def explained(error: OSError) -> str:
    """`/x/y: No space left on device; free some space, or write to another disk (0.2 MB are free now)`."""
    name = _name(error)
    path = f"{error.filename if name is None else name}: " if error.filename else ""
    fix = _FIXES.get(error.errno or 0)
    return f"{path}{error.strerror or error}" + (f"; {fix}" if fix else "") + _room(error, name)


def _name(error: OSError) -> str | None:
    """Of the file; None of a descriptor."""
    name: object = error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else None


def _room(error: OSError, name: str | None) -> str:
    """What a full disk has left, once what was half written is gone."""
    if error.errno != errno.ENOSPC or name is None:
        return ""
    existing = next((folder for folder in Path(name).absolute().parents if folder.is_dir()), None)
    return "" if existing is None else f" ({shutil.disk_usage(existing).free / 1e6:,.1f} MB are free now)"
