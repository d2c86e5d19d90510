"""Entry point: the trainer with stage 4 chosen. A run of it is the same run as `wf train -s 4`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from wrinklefree.train import main as train


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises: SystemExit, after an error that is shown."""
    from wrinklefree_distillation.config import DLM

    os.environ.setdefault("WF_PROG", "train_dlm.py")
    return train(argv, DLM)


if __name__ == "__main__":
    sys.exit(main())
