"""The frame around an application: what its user can mend is one line, anything else a bug of ours.

error                                            shown as                            exit code
UserError                                        `error: message`                    its exit_code
OSError of the disk or of permissions, memory    one line with the path and a fix    1
KeyboardInterrupt                                `stopped`                           130
BrokenPipeError                                  nothing                             141
anything else                                    traceback and BUG_NOTE              1 (Python's own)

A line may hold names and words of files of others; what would steer the terminal is written out.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wf_formats.errors import UserError
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
            error.add_note(BUG_NOTE)
            raise
        sys.stderr.write(f"error: {legible(explained(error))}\n")
        raise SystemExit(1) from error
    except Exception as error:
        error.add_note(BUG_NOTE)
        raise


class Framed:
    """Put before typer's command or group class: its invocation runs inside the frame."""

    stopped = "stopped"
    """The line after Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        """What the class beside it does."""
        with boundary(self.stopped):
            return super().invoke(ctx)  # type: ignore[misc]  # of that class


def explained(error: OSError) -> str:
    """`/x/y: No space left on device; free some space, or write to another disk`."""
    path = f"{error.filename}: " if error.filename else ""
    fix = _FIXES.get(error.errno or 0)
    return f"{path}{error.strerror or error}" + (f"; {fix}" if fix else "")
