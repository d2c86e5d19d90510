"""`serve` as a worker: it ends with the gateway that has started it, by `kill -9` too.

python -m wrinklefree_inference.gateway.worker_program serve --model MODEL ...
"""

import os

from wf_formats.lifeline import end_with
from wrinklefree_inference.application import main
from wrinklefree_inference.gateway.worker import STARTER

if __name__ == "__main__":
    end_with(int(os.environ.pop(STARTER)))
    main("wf")
