"""Entry point: the trainer with stage 3 chosen, and `student.checkpoint_path`. A run of it is the same run
as `wf train -s 3` with `training.start_from`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from wrinklefree.train import main as train


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises: SystemExit, after an error that is shown."""
    from wrinklefree_distillation.config import DISTILL

    os.environ.setdefault("WF_PROG", "distill.py")
    return train(argv, DISTILL)


if __name__ == "__main__":
    sys.exit(main())
