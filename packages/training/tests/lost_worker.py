"""A training command whose second rank is killed after step 3, the first time that it is started."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from wrinklefree.callbacks import StepLog
from wrinklefree.train import main


def _killed_once(marker: Path) -> None:
    original = StepLog.on_step_end

    def patched(self: StepLog, trainer: Any, module: Any, done: int) -> None:
        original(self, trainer, module, done)
        if done == 3 and os.environ["RANK"] == "1" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    StepLog.on_step_end = patched  # type: ignore[method-assign]


if __name__ == "__main__":
    _killed_once(Path(sys.argv.pop(1)))
    sys.exit(main())
