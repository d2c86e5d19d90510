"""An application that reads a file and leaves results, as `wf eval` is: `--model PATH [--seconds N]`.

`--describe` says what it would be elsewhere, `show FILE` prints its report.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def described(arguments: list[str]) -> dict[str, Any]:
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    model = given["--model"]
    place = model if ":" in model else str(Path(model).absolute())
    return {
        "label": Path(model).name,
        "arguments": ["--model", place, *(word for word in arguments[2:])],
        "inputs": {place: []},
        "on_gpu": not model.endswith(".gguf"),
    }


def main(arguments: list[str]) -> None:
    if arguments[0] == "show":
        sys.stdout.write(f"the table of {json.loads(Path(arguments[1]).read_text())['model']}\n")
    elif arguments[0] == "--describe":
        if arguments[1] != "--model":
            sys.exit(f"{os.environ['WF_PROG']}: no such option {arguments[1]}")
        sys.stdout.write(json.dumps(described(arguments[1:])))
    else:
        sys.stdout.write(f"reads {Path(arguments[1]).read_text()}\n")
        sys.stdout.flush()
        time.sleep(float(arguments[3]) if arguments[2:] else 0)
        Path("report.json").write_text(json.dumps({"model": Path(arguments[1]).read_text()}))


if __name__ == "__main__":
    main(sys.argv[1:])
