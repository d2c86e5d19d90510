"""What an application shows of an error, and the code it ends with."""

import errno
from pathlib import Path

import pytest

from wf_formats.boundary import BUG_NOTE, boundary
from wf_formats.errors import LoadError, RequestError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LoadError("no model in x; give a folder"), 1, "error: no model in x; give a folder"),
        (RequestError("steps is -1; give 1 or more"), 2, "error: steps is -1; give 1 or more"),
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "/x/y: No space left on device; free"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, " MB are free now)\n"),
        (OSError(errno.ENOSPC, "No space left", b"/x/\xff"), 1, "/x/\\udcff: No space left; free"),
        (OSError(errno.ENOSPC, "No space left", b"/x/y"), 1, " MB are free now)\n"),
        (OSError(errno.ENOSPC, "No space left", Path("/x/y")), 1, " MB are free now)\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "write to another disk\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "/x: Permission denied; choose"),
        (LoadError("no tensor 'a\x1b[2J\u202e\x9b1m\rb'"), 1, r"error: no tensor 'a\x1b[2J\u202e\x9b1m\rb'"),
        (OSError(errno.ENOENT, "No such file", "/x\x1b[2J"), 1, r"/x\x1b[2J: No such file; check"),
        (ModuleNotFoundError("-", name="lm_eval"), 1, "`uv pip install lm-eval` it alone\n"),
        (ModuleNotFoundError("-", name="wf_ptq"), 1, "brings all that its commands need\n"),
        (MemoryError(), 1, "error: out of memory"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, code, line, capsys):
    with pytest.raises(SystemExit) as ended, boundary():
        raise error
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert line in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), ZeroDivisionError("y"), OSError("no number"), ModuleNotFoundError("-", name="a.b")],
)
def test_anything_else_says_that_it_is_a_bug(error):
    with pytest.raises(type(error)) as raised, boundary():
        raise error
    assert raised.value.__notes__ == [BUG_NOTE]


def test_an_exit_passes():
    with pytest.raises(SystemExit) as ended, boundary():
        raise SystemExit(3)
    assert ended.value.code == 3
