"""SkyPilot on the two nodes of tests/slurm/real_cluster.py: the login node has sshd and a home of its own.

SkyPilot's server, its client and the nodes run in the cluster's namespaces, without a network. What they want
is fetched before: SkyPilot's environment into uv's cache, wheels for the nodes into a folder. A prolog
puts uv and a Python where SkyPilot would install its own.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import real_cluster
from real_cluster import Cluster

PROGRAMS = ("sshd", "ssh-keygen", "rsync", "uv", "/usr/bin/python3.11")
CONFIGURATION = """\
PrologFlags=Alloc
Prolog=/etc/slurm/prolog.sh
"""
PROLOG = """\
#!/bin/bash
name=$(squeue -h -j "$SLURM_JOB_ID" -o %j)
[ -f "/root/.sky_provision/$name.sh" ] || exit 0
bin=/root/.sky_clusters/$name/.local/bin runtime=/skyrt/$name
mkdir -p "$bin" "$runtime"
ln -sfn {folder}/bin/uv "$bin/uv"
[ -d "$runtime/skypilot-runtime" ] ||
    {uv} venv -q --seed -p /usr/bin/python3.11 "$runtime/skypilot-runtime"
"""
# A job's own environment has no packages of the registry: it gets those of the tests.
UV = """\
#!/bin/bash
{uv} "$@" || exit
[ "$1" != sync ] || printf '%s\\n' {paths} >.venv/lib/python3.11/site-packages/tests.pth
"""
UV_CONFIGURATION = """\
offline = true
no-index = true
find-links = ["{wheels}"]
python-downloads = "never"
"""
LOGIN = """\
for kept in {kept}; do
    mkdir -p "{folder}/root$kept"
    mount --bind "/root$kept" "{folder}/root$kept"
done
mkdir -p /skyrt /etc/uv /run/sshd
mount --rbind {folder}/root /root
mount -t tmpfs tmpfs /etc/uv
cp {folder}/uv.toml /etc/uv/
cp {folder}/prolog.sh /etc/slurm/
chmod 755 /etc/slurm/prolog.sh
mkdir -p /root/.ssh /root/.slurm /root/.sky
chmod 700 /root/.ssh
ssh-keygen -q -t ed25519 -N "" -f /root/.ssh/id_loop
ssh-keygen -q -t ed25519 -N "" -f {folder}/host_key
cp /root/.ssh/id_loop.pub /root/.ssh/authorized_keys
cp {folder}/slurm_config /root/.slurm/config
cp {folder}/sky_config.yaml /root/.sky/config.yaml
$(command -v sshd) -f /dev/null -h {folder}/host_key -o ListenAddress=127.0.0.1:2222 \\
    -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o UsePAM=no -o MaxStartups=100 \\
    -o MaxSessions=100 -o PidFile=/run/sshd_loop.pid -o Subsystem="sftp internal-sftp"
"""
SLURM_CONFIG = """\
Host loop
  HostName 127.0.0.1
  Port 2222
  User root
  IdentityFile /root/.ssh/id_loop
  IdentitiesOnly yes
"""
SKY_CONFIG = """\
slurm:
  cluster_configs:
    loop:
      tmpdir: /skyrt
"""


def why_missing() -> str | None:
    """What this machine lacks; None: nothing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing (apt-get install openssh-server rsync)"
    return real_cluster.why_missing()


def fetch_wheels(folder: Path, version: str) -> None:
    """What SkyPilot installs on nodes, for their Python."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [
        "uv",
        "run",
        "--isolated",
        "--no-project",
        "--python",
        "/usr/bin/python3.11",
        "--with",
        "pip",
        "python",
    ]
    for wanted in ([f"skypilot[slurm,remote]=={version}", "pip", "setuptools", "wheel"], ["setuptools<70"]):
        subprocess.run([*pip, "-m", "pip", "download", "-q", "-d", str(folder), *wanted], check=True)
    for source in folder.glob("*.tar.gz"):
        subprocess.run(
            [*pip, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)], check=True
        )


def _line(path: str) -> str:
    """Of a .pth file; editable packages need those of their own folder."""
    return f"import site; site.addsitedir({path!r})" if path.endswith("site-packages") else path


@contextmanager
def sky_cluster(folder: Path, wheels: Path) -> Iterator[Cluster]:
    """The cluster, with SkyPilot's configuration for it as "loop"."""
    uv = Path(sys.base_prefix) / "bin" / "uv"
    real_uv = str(uv) if uv.exists() else shutil.which("uv")
    for name in ("bin", "root", "rt-n1", "rt-n2"):
        (folder / name).mkdir()
    paths = " ".join(shlex.quote(_line(path)) for path in sys.path if path and Path(path).is_dir())
    (folder / "bin" / "uv").write_text(UV.format(uv=real_uv, paths=paths))
    (folder / "bin" / "uv").chmod(0o755)
    (folder / "prolog.sh").write_text(PROLOG.format(folder=folder, uv=real_uv))
    (folder / "uv.toml").write_text(UV_CONFIGURATION.format(wheels=wheels))
    (folder / "slurm_config").write_text(SLURM_CONFIG)
    (folder / "sky_config.yaml").write_text(SKY_CONFIG)
    cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    homes = [path.removeprefix("/root") for path in (sys.base_prefix, cache) if path.startswith("/root/")]
    login = LOGIN.format(folder=folder, kept=" ".join(f"'{path}'" for path in homes))
    with real_cluster.cluster(
        folder, CONFIGURATION, login, node=f"mount --bind {folder}/rt-$node /skyrt; "
    ) as cluster:
        yield cluster
