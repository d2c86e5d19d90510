"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd in namespaces of their own.

Nothing of it can be reached from outside, it does not see the network, and all of it ends with its first
process. It needs root, `unshare`, `ip` and Debian's slurm-wlm and munge.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("setpriv", "unshare", "nsenter", "runuser", "ip", "munged", "slurmctld", "slurmd", "sbatch")
START_TIMEOUT_S = 240.0

HOSTS = """\
127.0.0.1 localhost
10.99.0.10 login
10.99.0.11 n1
10.99.0.12 n2
"""

# cred_expire: a job that is queued again waits for it; the default is two minutes.
CONFIGURATION = """\
ClusterName=loop
SlurmctldHost=login(10.99.0.10)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd.%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=5
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmctldPort=26817
NodeName=n1 NodeHostname=n1 NodeAddr=10.99.0.11 Port=26821 CPUs=2 RealMemory=16000 State=UNKNOWN
NodeName=n2 NodeHostname=n2 NodeAddr=10.99.0.12 Port=26822 CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""

# Slurm resolves names with AI_ADDRCONFIG, which finds nothing where only loopback has an address.
INSIDE = """\
set -e
mount --make-rprivate /
ip link set lo up
hostname login
ip link add d0 type dummy 2>/dev/null || ip link add d0 type veth peer name d1
ip link set d0 up
for last in 10 11 12; do ip addr add 10.99.0.$last/24 dev d0; done
mount --bind {folder}/hosts /etc/hosts
for place in /run /var/spool /var/lib/munge /var/log/munge /etc/munge; do mount -t tmpfs tmpfs $place; done
mkdir -p /etc/slurm
mount -t tmpfs tmpfs /etc/slurm
cp {folder}/slurm.conf /etc/slurm/
mkdir -p /run/munge /var/spool/slurmctld
head -c 1024 /dev/urandom >/etc/munge/munge.key
chown -R munge:munge /etc/munge /var/lib/munge /var/log/munge /run/munge
chmod 700 /etc/munge /var/lib/munge /var/log/munge
chmod 400 /etc/munge/munge.key
chmod 755 /run/munge
runuser -u munge -- munged
{login}
slurmctld
for node in n1 n2; do
    mkdir -p /var/spool/slurmd.$node
    unshare --mount --uts bash -c "hostname $node; {node}exec slurmd -N $node"
done
touch {folder}/ready
while sleep 1; do :; done
"""


def why_missing() -> str | None:
    """What this machine lacks for it; None: nothing."""
    if os.geteuid() != 0:
        return "a real Slurm in namespaces needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing (apt-get install slurm-wlm munge iproute2)"
    done = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True)
    return None if done.returncode == 0 else f"unshare: {done.stderr.decode().strip()}"


class Cluster:
    """Commands on the login node."""

    def __init__(self, init_pid: int) -> None:
        self.init_pid = init_pid

    def run(
        self, *command: str, user: str = "root", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program as a user, with this process's environment and more."""
        as_user = [] if user == "root" else ["runuser", "-u", user, "--"]
        return subprocess.run(
            [*self._enter, *as_user, *command],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | dict(environment or {}),
        )

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A program that runs on; it reads its standard input, and ends with it."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen([*self._enter, *command], text=True, **pipes)

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.init_pid), "-m", "-p", "-n", "-u", "-i", "--wd=/"]

    def wf(self, *arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        source = "from wf_deployer.main import app; app()"
        return self.run(sys.executable, "-c", source, *arguments, environment=environment)

    def state(self, slurm_id: str) -> str:
        """Such as "RUNNING"; "" if Slurm does not know it."""
        return self.run("squeue", "-h", "-t", "all", "-j", slurm_id, "-o", "%T").stdout.strip()


@contextmanager
def cluster(folder: Path, configuration: str = "", login: str = "", node: str = "") -> Iterator[Cluster]:
    """Starts it with its files in `folder`, and ends it.

    Args:
        configuration: further lines of slurm.conf.
        login: bash that prepares the login node before Slurm starts.
        node: commands of bash, each with a `;`, that prepare a node; $node is its name.
    """
    (folder / "hosts").write_text(HOSTS)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder) + configuration)
    inside = INSIDE.format(folder=folder, login=login, node=node)
    command = [
        *("setpriv", "--pdeathsig", "KILL"),  # it ends with us, however we end
        "unshare",
        "--mount",
        "--pid",
        "--net",
        "--uts",
        "--ipc",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    with (folder / "inside.log").open("wb") as log:
        outside = subprocess.Popen(
            [*command, "bash", "-c", inside],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S

        def wait_for(is_so: Callable[[], bool]) -> None:
            while not is_so():
                assert outside.poll() is None, (folder / "inside.log").read_text()
                assert time.monotonic() < deadline_s, (folder / "inside.log").read_text()
                time.sleep(0.1)

        wait_for((folder / "ready").exists)
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
        started = Cluster(int(children[0]))
        wait_for(lambda: started.run("sinfo", "-h", "-N", "-o", "%t").stdout.split() == ["idle", "idle"])
        yield started
    finally:
        outside.kill()  # and with it, by --kill-child, the first process of the namespace
        outside.wait()
