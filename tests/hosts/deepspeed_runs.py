"""Training on the hosts of a cluster by DeepSpeed's own launcher, as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.distributed.launcher import ROOT, free_port
from tests.hosts.cluster import Cluster


def begin(cluster: Cluster, run: Path, *arguments: str, config: Path, hosts: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """``deepspeed --hostfile H --module trainer contrastive --config C --run RUN ...`` on ``head``; what it says goes to RUN.log."""
    environment = cluster.home / "deepspeed_env"
    settings = {
        "DS_ACCELERATOR": "cpu",
        "GLOO_SOCKET_IFNAME": "eth0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
    }
    environment.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    alive = "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
    launcher = ["-m", "deepspeed.launcher.runner", "--hostfile", str(cluster.hostfile(*hosts)), "--master_port", str(free_port())]
    command = ["--module", "trainer", "contrastive", "--config", str(config), "--run", str(run), *arguments]
    return cluster.start(
        "head",
        [sys.executable, *launcher, *command],
        run.with_suffix(".log"),
        DS_ENV_FILE=str(environment),
        PDSH_SSH_ARGS_APPEND=alive,
        **settings,
    )


def train(cluster: Cluster, run: Path, *arguments: str, config: Path, hosts: tuple[str, ...] = (), timeout: float = 200) -> str:
    """To the end; what was said."""
    begin(cluster, run, *arguments, config=config, hosts=hosts).wait(timeout)
    return run.with_suffix(".log").read_text()
