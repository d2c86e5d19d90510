"""Libraries that people use with OpenAI's API, each in an environment of its own, against one real server.

The model is random: what is right about structured answers and calls is the server's doing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).with_name("clients")
REQUIREMENTS = {
    "langchain": ["langchain-openai>=1"],
    "litellm": ["litellm>=1.80"],
    "llamaindex": ["llama-index-llms-openai-like>=0.5"],
    "pydantic_ai": ["pydantic-ai-slim[openai]>=2"],
    "instructor": ["instructor>=1.10"],
}


@pytest.fixture(scope="module")
def url(serve: Callable[..., tuple[subprocess.Popen[str], str]], ternary_gguf: Path) -> str:
    return serve("--model", str(ternary_gguf), "--threads", "1", "--context", "1024")[1]


@pytest.mark.slow
@pytest.mark.parametrize("client", sorted(REQUIREMENTS))
def test_a_client_works(client: str, url: str, tmp_path: Path) -> None:
    requirements = [word for each in REQUIREMENTS[client] for word in ("--with", each)]
    script = str(SCRIPTS / f"with_{client}.py")
    command = ["uv", "run", "--isolated", "--no-project", "--quiet", "--python", "3.11", *requirements]
    # Nothing of ours: neither the workspace's packages nor a proxy between the two.
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*command, "python", script, url, "two-layers"],
        cwd=tmp_path,
        env=own | {"NO_PROXY": "127.0.0.1,localhost"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
