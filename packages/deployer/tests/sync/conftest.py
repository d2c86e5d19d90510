"""Fixtures: a checkout, and a real sshd on the loopback device with a home and a PATH of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from wf_deployer.sync.main import app

_SBIN = "/usr/sbin:/usr/local/sbin"
_THERE = "/usr/local/bin:/usr/bin:/bin"
"""PATH of commands over ssh."""
FOLDERS = ("home", "bin", "client")
FAKE_UV = """#!/bin/sh
echo "fake uv $* in $PWD"
echo run >> "$HOME/uv-runs"
exit $(cat "$HOME/uv-exit" 2>/dev/null || echo 0)
"""


def git(folder: Path, *arguments: str) -> None:
    names = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session", name="git")
def git_command() -> Callable[..., None]:
    """Runs git in a folder."""
    return git


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with two files, in which commands run; a state folder of its own."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "a.txt").write_text("a\n")
    (folder / "tools").mkdir()
    (folder / "tools" / "run").write_text("#!/bin/sh\n")
    (folder / "tools" / "run").chmod(0o755)
    (folder / ".gitignore").write_text("*.log\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


@dataclass(frozen=True)
class Sshd:
    """A server that lets one key in. Attributes: home is what commands there see as HOME."""

    pid: int
    port: int
    key: Path
    home: Path
    bin: Path
    client: Path

    @property
    def preset(self) -> str:
        return f"[box]\nhost=127.0.0.1\nport={self.port}\nkey={self.key}\ndir=there\n"


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:{_SBIN}")
    missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    missing += [name for name in ("rsync", "python3") if shutil.which(name, path=_THERE) is None]
    if program is None or missing:
        pytest.skip(f"a real server is missing: {', '.join(missing) or 'sshd'} is not installed")
    folder = tmp_path_factory.mktemp("sshd it's")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = _free_port()
    _write_files(folder, port)
    command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
    sockets = Path(tempfile.mkdtemp(prefix="wf", dir="/tmp"))  # short: a socket's path has 107 characters
    with (folder / "log.txt").open("w") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            _wait_for(port, server, folder / "log.txt")
            made = Sshd(server.pid, port, folder / "user key", *(folder / name for name in FOLDERS))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PATH", f"{made.client}:{os.environ['PATH']}")
                patch.setenv("XDG_RUNTIME_DIR", str(sockets))
                yield made
        finally:
            for path in sockets.rglob("*-*"):
                if path.is_socket():
                    end = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "x"]
                    subprocess.run(end, capture_output=True, check=False)
            server.terminate()
            shutil.rmtree(sockets)


def _write_files(folder: Path, port: int) -> None:
    home, programs, client = (folder / name for name in FOLDERS)
    for made in (home, programs, client):
        made.mkdir()
    for name in ("host_key", "user key"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True)
    plain = Path(tempfile.mkdtemp(prefix="wf-sshd", dir=folder.parent))  # sshd_config takes no apostrophe
    shutil.copy(folder / "user key.pub", plain / "authorized_keys")
    (plain / "home").symlink_to(home)
    (plain / "bin").symlink_to(programs)
    (plain / "host_key").symlink_to(folder / "host_key")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {plain}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {plain}/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
        f"PermitRootLogin yes\nMaxSessions 50\n"
        f"SetEnv HOME={plain}/home PATH={plain}/bin:{_THERE}\n"
    )
    host_key = (folder / "host_key.pub").read_text()
    (plain / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (plain / "ssh_config").write_text(f"UserKnownHostsFile {plain}/known_hosts\n")
    real = shutil.which("ssh")
    _program(client / "ssh", f'#!/bin/sh\nexec {real} -F {plain}/ssh_config "$@"\n')
    _program(programs / "uv", FAKE_UV)


def _program(path: Path, source: str) -> None:
    path.write_text(source)
    path.chmod(0o755)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        if server.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()}")
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("sshd did not listen in time")


@pytest.fixture
def there(sshd: Sshd, checkout: Path) -> Iterator[Path]:
    """The remote folder of the checkout's preset `box`; not there yet."""
    (checkout / ".sync.conf").write_text(sshd.preset)
    folder = sshd.home / "there"
    yield folder
    for path in sshd.home.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def gcd(checkout: Path) -> Callable[..., Result]:
    """Runs the command line in this process; nothing may end in a traceback."""
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})

    def run(*arguments: str) -> Result:
        result = runner.invoke(app, list(arguments), prog_name="gcd")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    return run
