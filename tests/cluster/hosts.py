"""Hosts on one machine: each has its own network, host name, processes, shared memory and /run; they share the disk.

A host is a set of Linux namespaces that its first process holds open. It ends with the process that made it, with all
of its processes, addresses and mounts, so nothing needs cleaning up and nothing is written to the machine itself. The
hosts are connected to one switch (a bridge in a namespace of its own), where a test can pull a cable; it can also limit
a host's bandwidth.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # daemons stand where a user's path may not lead
_NAMESPACES = ("--net", "--uts", "--mount", "--pid", "--ipc")
_TOOLS = ("setpriv", "unshare", "nsenter", "ip", "tc", "mount")
# The first process of a host: it sets the host up, then reaps orphans like an init.
_INIT = """set -e
hostname "$1"; ip link set lo up
mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /run; mkdir /run/sshd /run/munge
for file in hosts resolv.conf nsswitch.conf; do mount --bind "$2/$file" "/etc/$file"; done
shift 2
while [ $# -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
echo ready
sleep infinity & wait
"""


def missing(*tools: str) -> str:
    """Why this machine cannot have such hosts or lacks tools for them; empty if it can."""
    absent = [tool for tool in (*_TOOLS, *tools) if shutil.which(tool, path=PATH) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (.ci/run installs them on Debian)"
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "--fork", "--mount-proc", "bash", "-c", "mount -t tmpfs t /run && ip link set lo up"],
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
    )
    return "" if tried.returncode == 0 else f"no right to make namespaces (root has it): {tried.stderr.strip()}"


def until(condition: Callable[[], object], *, seconds: float, what: str, shown: Callable[[], str] = str) -> None:
    """Wait until `condition()` is true; fail after `seconds` with `shown()`, the output of the processes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}\n{shown()}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Process:
    """A command running on a host, with its output in a file."""

    entered: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return f"--- {self.log.name}\n{self.log.read_text(errors='replace')}"

    def running(self) -> bool:
        return self.entered.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Signal the command itself, not its children."""
        os.kill(_child(self.entered.pid), number)

    def wait(self, *, seconds: float) -> int:
        """Wait for the exit code; fail with the output after `seconds`."""
        until(lambda: not self.running(), seconds=seconds, what="the end of the command", shown=lambda: self.said)
        return self.entered.wait()


class Host:
    """One host; `files` are bound over paths of the machine, as this host alone sees them."""

    def __init__(self, name: str, address: str, folder: Path, files: Mapping[Path, str]) -> None:
        self.name, self.address, self.folder = name, address, folder
        mounts = [str(word) for pair in files.items() for word in pair]
        self._holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc"),
                *("bash", "-c", _INIT, "init", name, str(folder), *mounts),
            ],
            env={**os.environ, "PATH": PATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        assert said == b"ready\n", f"host {name} does not start: {said + self._holder.stdout.read()!r}"
        self.init = _child(self._holder.pid)
        self._started: list[Process] = []

    def words(self, *command: str | Path, **environment: str) -> list[str]:
        """The words that run `command` on this host, in the repository's root."""
        settings = [f"{name}={value}" for name, value in {"PATH": PATH, **environment}.items()]
        enter = ("nsenter", "--target", str(self.init), *_NAMESPACES, "env", "--chdir", str(ROOT))
        return [*enter, *settings, *map(str, command)]

    def run(self, *command: str | Path, expect: int = 0, seconds: float = 300, **environment: str) -> str:
        """Run `command` to its end; return its standard output, fail with all output on an unexpected exit code."""
        words = self.words(*command, **environment)
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
        shown = f"{self.name}$ {' '.join(map(str, command))}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
        assert done.returncode == expect, f"exit {done.returncode}, wanted {expect}\n{shown}"
        return done.stdout if expect == 0 else done.stdout + done.stderr

    def start(self, *command: str | Path, **environment: str) -> Process:
        """Start `command`; it lives at most as long as the host."""
        log = self.folder / f"{self.name}-{len(self._started):02d}-{Path(command[0]).name}.log"
        with log.open("wb") as output:
            words = self.words(*command, **environment)
            made = Process(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output), log)
        self._started.append(made)
        return made

    def processes(self, naming: str = "") -> dict[int, str]:
        """The command lines on this host that contain `naming`, by the machine's process id."""
        space = Path(f"/proc/{self.init}/ns/pid").readlink()
        found: dict[int, str] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if (folder / "ns/pid").readlink() == space and line and naming in line:
                    found[int(folder.name)] = line
            except OSError:
                continue  # it has just ended
        return {pid: line for pid, line in found.items() if pid != self.init and line != "sleep infinity"}

    def kill(self, naming: str) -> list[int]:
        """SIGKILL all processes whose command line contains `naming`; return their ids."""
        killed = list(self.processes(naming))
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        return killed

    @contextmanager
    def slowed(self, rate: str) -> Iterator[None]:
        """Limit outgoing traffic to `rate`, such as 1mbit."""
        limit = ("tbf", "rate", rate, "burst", "16kb", "latency", "400ms")
        self.run("tc", "qdisc", "replace", "dev", "eth0", "root", *limit)
        try:
            yield
        finally:
            self.run("tc", "qdisc", "del", "dev", "eth0", "root")

    def end(self) -> None:
        """Pull the plug."""
        self._holder.kill()
        self._holder.communicate()
        for process in self._started:
            process.wait(seconds=120)


@dataclass(frozen=True)
class Network:
    """Hosts that reach each other by name."""

    hosts: dict[str, Host]
    switch: Host

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    @contextmanager
    def cable_pulled(self, name: str) -> Iterator[None]:
        """Pull the network cable of a host, and plug it in again at the end."""
        self.switch.run("ip", "link", "set", name, "down")
        try:
            yield
        finally:
            self.switch.run("ip", "link", "set", name, "up")


@contextmanager
def network(folder: Path, names: Sequence[str], files: Mapping[Path, str] | None = None) -> Iterator[Network]:
    """Hosts called `names`, with 10.77.0.1, 10.77.0.2, ... as their addresses; they see `files` bound over theirs."""
    addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, start=1)}
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    (folder / "resolv.conf").write_text("")
    # Without a name server every unknown name costs ten seconds, so none is asked.
    (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    with ExitStack() as stack:

        def host(name: str, address: str) -> Host:
            made = Host(name, address, folder, files or {})
            stack.callback(made.end)
            return made

        switch = host("switch", "")
        switch.run("ip", "link", "add", "bridge", "type", "bridge")
        switch.run("ip", "link", "set", "bridge", "up")
        made = {name: host(name, address) for name, address in addresses.items()}
        for one in made.values():
            _connect(switch, one)
        yield Network(made, switch)


def _connect(switch: Host, host: Host) -> None:
    # From the machine's view of process ids, so only the switch's network is entered.
    cable = ["ip", "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", str(host.init)]
    subprocess.run(["nsenter", "--target", str(switch.init), "--net", *cable], check=True, capture_output=True)
    switch.run("ip", "link", "set", host.name, "master", "bridge", "up")
    host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")


def _child(pid: int) -> int:
    """The one child of a process that only waits for it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until(lambda: children.read_text().split(), seconds=120, what=f"process {pid} starts its command")
    return int(children.read_text().split()[0])
