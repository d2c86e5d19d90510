"""Entry point: the trainer with `model.scheme=fairy2-w2`; `wf train` with that is the same run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from wrinklefree.train import main as train


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises: SystemExit, after an error that is shown."""
    from fairy2.config import FAIRY2

    os.environ.setdefault("WF_PROG", "train.py")
    return train(argv, FAIRY2)


if __name__ == "__main__":
    sys.exit(main())
