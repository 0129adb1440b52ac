"""Two hosts that reach each other over a real sshd, without a password, like the machines of a small cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.hosts import PATH, Network, network, until

TOOLS = ("sshd", "ssh", "ssh-keygen", "pdsh")
NAMES = ("n1", "n2")
_SERVER = """HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
UsePAM no
"""
_CLIENT = """Host *
  IdentityFile {folder}/user_key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


@contextmanager
def ssh(folder: Path) -> Iterator[Network]:
    """Hosts `n1` and `n2`; keys and settings are in `folder`, and those of the machine are not used."""
    for name in ("host_key", "user_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True, capture_output=True)
    (folder / "sshd_config").write_text(_SERVER.format(folder=folder))
    (folder / "ssh_config").write_text(_CLIENT.format(folder=folder))
    with network(folder, NAMES, {folder / "ssh_config": "/etc/ssh/ssh_config"}) as hosts:
        for host in hosts.hosts.values():
            host.start(_daemon(), "-D", "-e", "-f", folder / "sshd_config")
        for name in NAMES:
            until(
                lambda name=name: _answers(hosts, name),
                seconds=120,
                what=f"sshd on {name} answers",
                shown=lambda: "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("*.log"))),
            )
        yield hosts


def _daemon() -> str:
    return shutil.which("sshd", path=PATH) or "sshd"  # sshd requires an absolute path


def _answers(hosts: Network, name: str) -> bool:
    words = hosts["n1"].words("ssh", "-o", "ConnectTimeout=5", name, "true")
    return subprocess.run(words, capture_output=True, timeout=120).returncode == 0
