"""Launch on hosts over ssh: the script of each host, and the commands that run it or kill what it started."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch.cluster import ClusterConfig, Launcher, SshConfig
from launch.local import Command
from launch.record import LaunchDir
from launch.script import quote_words, render
from videomae.core.progress import logger


def ssh_words(ssh: SshConfig, host: str, command: Sequence[str]) -> list[str]:
    """The words that run `command` on `host` without prompting; every word reaches the command unchanged."""
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={ssh.connect_timeout}", *ssh.options]
    return ["ssh", *options, "--", host, shlex.join(command)]


def host_commands(launch_dir: LaunchDir, ssh: SshConfig, hosts: Sequence[str]) -> list[Command]:
    """For each host the command that runs host.sh there."""
    script = str(launch_dir.record / "host.sh")
    return [Command(ssh_words(ssh, host, ["bash", script, str(number)])) for number, host in enumerate(hosts)]


def kill_hosts(launch_dir: LaunchDir, ssh: SshConfig, hosts: Sequence[str]) -> None:
    """Kill what host.sh has started on each host."""
    for number, host in enumerate(hosts):
        try:
            words = ssh_words(ssh, host, kill_words(launch_dir.record, number))
            subprocess.run(words, capture_output=True, timeout=60)
        except subprocess.SubprocessError as error:
            logger.warning("%s", error)


def kill_words(record: Path, number: int) -> list[str]:
    """The words that, on host `number`, kill all that host.sh has started there; they do nothing if that has ended.

    host-N.pid holds the process id and the start time, since the system reuses process ids.
    """
    file = shlex.quote(str(record / f"host-{number}.pid"))
    find = f'read -r pid start < {file} && [ -n "$start" ]'
    same = '[ "$(sed \'s/.*) //\' "/proc/$pid/stat" | cut -d\' \' -f20)" = "$start" ]'
    # torchrun's processes lead sessions of their own; DeepSpeed's belong to the launcher's process group.
    kill = 'group=$(ps -o pgid= -p "$pid") && { pkill -KILL -P "$pid"; pkill -KILL -g $group; }'
    return ["bash", "-c", f"if {find} && {same}; then {kill}; fi 2>/dev/null; true"]


def host_scripts(
    module: str, launch_dir: LaunchDir, cluster: ClusterConfig, *, hosts: Sequence[str], launcher: Launcher
) -> dict[str, str]:
    """The texts of host.sh, which starts the processes of one host, and of DeepSpeed's hostfile.

    Raises:
        UserError: a value cannot stand in a script.
    """
    address, port = cluster.rendezvous_address(hosts), cluster.rendezvous_port(launch_dir.run)
    text = render(
        "host.sh.jinja",
        launch_dir=launch_dir,
        cluster=cluster,
        threads=1,
        launcher=launcher,
        module=module,
        hosts=hosts,
        names=quote_words(*hosts),
        processes=cluster.processes,
        address=address,
        port=port,
        endpoint=f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
        rdzv_id=launch_dir.run.name,
        stop_seconds=cluster.stop_seconds,
    )
    slots = "".join(f"{host} slots={cluster.processes}\n" for host in hosts)
    return {"host.sh": text, **({"hostfile": slots} if launcher == "deepspeed" else {})}
