"""Help and refusals of the command line, without a network."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import Result

Gcd = Callable[..., Result]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sync", ("gcd sync desktop --dry-run", "path_fix=pyproject.toml:/home/me/libs=>/data/libs")),
        (
            "sync-ssh",
            ("--smart", "--watch", "--no-watch", "--dry-run", "--skip-deps", "--delete", "--bwlimit"),
        ),
        ("status", ("--json", "gcd status desktop --json")),
    ],
)
def test_help(command: str, words: tuple[str, ...], gcd: Gcd) -> None:
    result = gcd(command, "--help")
    assert result.exit_code == 0
    assert f"Usage: gcd {command} " in result.output
    assert [word for word in words if word not in result.output.replace("\n", " ")] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sync", "box", "--watch", "--dry-run"), "--watch and --dry-run do not go together"),
        (("sync", "box", "--force"), "add --delete"),
        (("sync", "box", "--force", "--delete", "--watch"), "--watch does not take --force"),
        (("sync", "box", "--bwlimit", "fast"), "--bwlimit 'fast' is not a rate"),
        (("status", "--json"), "--json shows one preset; name one of box, other"),
        (("sync", "box", "--no-watch"), "there is no file to send"),
        (("sync", "box", "--dry-run"), "there is no file to send"),
    ],
)
def test_wrong_requests_are_one_line(
    arguments: tuple[str, ...], words: str, checkout: Path, gcd: Gcd
) -> None:
    for name in ("a.txt", ".gitignore", "tools/run"):
        (checkout / name).unlink()
    (checkout / ".sync.conf").write_text("[box]\nhost=127.0.0.1\nport=1\n[other]\nhost=x\n")
    result = gcd(*arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert result.output.count("\n") == 1


def test_it_is_a_module_and_a_script(workspace_root: Path, checkout: Path) -> None:
    command = [sys.executable, "-m", "wf_deployer.sync.main", "sync", "box"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no .sync.conf in ")
    settings = tomllib.loads((workspace_root / "packages/deployer/pyproject.toml").read_text())
    module, _, name = settings["project"]["scripts"]["gcd"].partition(":")
    assert getattr(import_module(module), name).info.name == "gcd"


def test_help_imports_nothing_heavy() -> None:
    source = "import sys, wf_deployer.sync.main; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert not [name for name in ("psutil", "watchfiles", "rich.table") if f"'{name}'" in done.stdout]
