"""Several hosts on this machine: network, process, name and mount namespaces of their own, an sshd in each, a bridge between them.

To ``ssh``, ``pdsh`` and ``deepspeed --hostfile`` these are hosts. Every host has a ``/tmp`` and a disk of its own (:attr:`Cluster.local`);
the rest of the file system is shared, as a cluster's is. It takes root, iproute2, openssh-server and pdsh; :func:`why_not` says what lacks.
No process is ended by its name: the end of a host's first process ends all that run on it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

_ROOT = Path(__file__).parents[2]
_PROGRAMS = {"ip": "iproute2", "sshd": "openssh-server", "pdsh": "pdsh", "ssh": "openssh-client", "unshare": "util-linux"}
_SSHD = """Port 22
HostKey {home}/host_key
AuthorizedKeysFile {home}/id.pub
PasswordAuthentication no
StrictModes no
UsePAM no
UseDNS no
MaxStartups 100
PermitRootLogin prohibit-password
"""
_SSH = """Host node* {net}.*
  User root
  IdentityFile {home}/id
  IdentitiesOnly yes
  UserKnownHostsFile {home}/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
"""
_FIRST = """hostname {name}
mount --bind {root} {shared}
mount -t tmpfs tmpfs /tmp
mkdir -p {root}
mount --bind {shared} {root}
mkdir -p /run/sshd
mount --bind {disk} {local}
exec {sshd} -D -e -f {home}/sshd_config -o PidFile={home}/{name}.sshd
"""


def why_not() -> str:
    """Why there can be no hosts here, in words; empty: there can."""
    if os.name != "posix" or not Path("/proc/self/ns/net").exists():
        return "hosts need Linux namespaces"
    if os.geteuid():
        return "hosts need root"
    if missing := sorted(package for program, package in _PROGRAMS.items() if _found(program) is None):
        return f"hosts need {', '.join(missing)}"
    with tempfile.TemporaryDirectory(prefix="eegvision-hosts-", dir="/var/tmp") as home:
        try:
            with Cluster(Path(home) / "one", 1) as cluster:
                said = cluster.run("head", "ssh", "node0", "hostname")
        except (RuntimeError, OSError) as error:
            return f"hosts cannot be made here: {error}"
    return "" if said.stdout == "node0\n" else f"hosts cannot be reached here: {said.stderr.strip()}"


class Cluster:
    """``head``, from which commands are given, and ``node0`` ... ``nodeN-1``.

    Parameters
    ----------
    home
        A new folder for keys, disks and files of hosts; not under ``/tmp``, of which each host has one of its own.
    count
        Hosts besides ``head``.
    debian
        ``/etc/hosts`` of each host as Debian's installer writes it: its own name is 127.0.1.1.
    """

    def __init__(self, home: Path, count: int, *, debian: bool = False) -> None:
        self.home, self.count, self.debian = home, count, debian
        self.prefix = f"ev{os.getpid()}"
        # Clusters of several processes do not meet, but routes of the machine itself must not be among theirs either: a test network.
        self.net = "198.18.7"
        self.names = [f"node{number}" for number in range(count)]
        self.local = home / "local"
        """Of each host another folder: its own disk."""
        self._first: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        try:
            self._up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.down()

    # ------------------------------------------------------------------------------------------------------------- what a test does

    def run(self, host: str, *argv: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command on a host, to its end."""
        return subprocess.run(
            [*self.into(host), *argv], env={**os.environ, **environment}, capture_output=True, text=True, timeout=timeout, check=False
        )

    def start(self, host: str, argv: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """A command on a host, in a session of its own; what it says goes to ``log``."""
        with log.open("ab") as said:
            return subprocess.Popen(
                [*self.into(host), *argv],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def into(self, host: str) -> list[str]:
        """What stands before a command that runs on a host: ``head`` shares processes and files with this machine, nodes have their own."""
        if host == "head":
            return ["ip", "netns", "exec", self._namespace(host)]
        return ["nsenter", "-t", str(self.first_process(host)), "-n", "-p", "-u", "-m", f"--wd={os.getcwd()}"]

    def hostfile(self, *names: str, slots: int = 1) -> Path:
        """A hostfile of some hosts; all of them where none is named."""
        names = names or tuple(self.names)
        file = self.home / f"hostfile-{'-'.join(names)}-{slots}"
        file.write_text("".join(f"{name} slots={slots}\n" for name in names))
        return file

    def cut(self, host: str) -> None:
        """Take the cable out: the host runs on, alone."""
        _do("ip", "-n", self._namespace("switch"), "link", "set", f"p-{host}", "down")

    def heal(self, host: str) -> None:
        """Put the cable back."""
        _do("ip", "-n", self._namespace("switch"), "link", "set", f"p-{host}", "up")

    def power_off(self, host: str) -> None:
        """All processes of a host end at once, without a word."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first_process(host), signal.SIGKILL)
        self._first.pop(host).wait(30)

    def power_on(self, host: str) -> None:
        """Start a host and wait until it can be reached."""
        ready = self.home / f"{host}.sshd"
        ready.unlink(missing_ok=True)
        disk = self.home / "disks" / host
        disk.mkdir(parents=True, exist_ok=True)
        shared = self.home / "shared"  # this project, which all hosts share, may itself lie in /tmp
        shared.mkdir(exist_ok=True)
        script = _FIRST.format(name=host, disk=disk, local=self.local, home=self.home, root=_ROOT, shared=shared, sshd=_found("sshd"))
        spaces = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--mount", "--kill-child"]
        with (self.home / f"{host}.log").open("ab") as said:
            self._first[host] = subprocess.Popen(
                ["ip", "netns", "exec", self._namespace(host), *spaces, "sh", "-ec", script],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        _wait_for(ready.exists, f"{host} did not start: {self.home / f'{host}.log'}")

    def first_process(self, host: str) -> int:
        """Number, on this machine, of a host's first process."""
        outer = self._first[host].pid
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(children[0])

    def processes(self, host: str) -> list[str]:
        """Command lines of what runs on a host besides its sshd."""
        said = self.run(host, "ps", "-eo", "pid=,args=").stdout.splitlines()
        return [line.strip() for line in said if "sshd" not in line and " ps -eo" not in line]

    # ----------------------------------------------------------------------------------------------------------------- up and down

    def _up(self) -> None:
        self.home.mkdir(parents=True)
        self.local.mkdir()
        Path("/run/sshd").mkdir(exist_ok=True)
        for key in ("id", "host_key"):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.home / key))
        (self.home / "sshd_config").write_text(_SSHD.format(home=self.home))
        public = " ".join((self.home / "host_key.pub").read_text().split()[:2])
        addresses = {name: f"{self.net}.{10 + number}" for number, name in enumerate(self.names)}
        (self.home / "known_hosts").write_text("".join(f"{name},{address} {public}\n" for name, address in addresses.items()))
        switch = self._namespace("switch")
        _do("ip", "netns", "add", switch)
        _do("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _do("ip", "-n", switch, "link", "set", "br0", "up")
        for name, address in {"head": f"{self.net}.5", **addresses}.items():
            self._connect(name, address, addresses)
        for name in self.names:
            self.power_on(name)

    def _connect(self, name: str, address: str, addresses: dict[str, str]) -> None:
        space, switch = self._namespace(name), self._namespace("switch")
        _do("ip", "netns", "add", space)
        etc = Path("/etc/netns") / space
        (etc / "ssh").mkdir(parents=True)
        (etc / "ssh" / "ssh_config").write_text(_SSH.format(net=self.net, home=self.home))
        known = {other: "127.0.1.1" if self.debian and other == name else at for other, at in addresses.items()}
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{at} {other}\n" for other, at in known.items()))
        _do("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"p-{name}", "netns", switch)
        _do("ip", "-n", switch, "link", "set", f"p-{name}", "master", "br0", "up")
        _do("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _do("ip", "-n", space, "link", "set", device, "up")

    def down(self) -> None:
        """End all hosts, and take away what they were made of."""
        for host in list(self._first):
            with contextlib.suppress(OSError, IndexError):
                self.power_off(host)
        for name in ("head", "switch", *self.names):
            subprocess.run(["ip", "netns", "del", self._namespace(name)], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / self._namespace(name), ignore_errors=True)
        with contextlib.suppress(OSError):
            Path("/etc/netns").rmdir()

    def _namespace(self, host: str) -> str:
        return f"{self.prefix}-{host}"


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _do(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _wait_for(condition: object, message: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise RuntimeError(message)
        time.sleep(0.05)
