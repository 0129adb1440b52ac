"""Launch on hosts over ssh: the script of each host, and the commands that run it or kill what it started."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch.cluster import ClusterConfig, Host, Launcher, SshConfig
from launch.local import Command
from launch.record import LaunchDir
from launch.script import quote_words, render
from videomae.core.errors import UserError
from videomae.core.progress import logger

_PLAIN = re.compile(r"[\w@%+=:,./-]+")


def ssh_words(ssh: SshConfig, host: str, command: Sequence[str]) -> list[str]:
    """The words that run `command` on `host` without prompting; every word reaches the command unchanged."""
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={ssh.connect_timeout}", *ssh.options]
    return ["ssh", *options, "--", host, shlex.join(command)]


def host_commands(launch_dir: LaunchDir, ssh: SshConfig, hosts: Sequence[Host]) -> list[Command]:
    """For each host the command that runs host.sh there."""
    script = str(launch_dir.record / "host.sh")
    return [Command(ssh_words(ssh, host.name, ["bash", script, str(number)])) for number, host in enumerate(hosts)]


def kill_hosts(launch_dir: LaunchDir, ssh: SshConfig, hosts: Sequence[Host]) -> None:
    """Kill what host.sh has started on each host."""
    for number, host in enumerate(hosts):
        try:
            words = ssh_words(ssh, host.name, kill_words(launch_dir.record, number))
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
    module: str, launch_dir: LaunchDir, cluster: ClusterConfig, *, hosts: Sequence[Host], launcher: Launcher
) -> dict[str, str]:
    """The texts of host.sh, which starts the processes of one host, and of DeepSpeed's hostfile.

    Raises:
        UserError: a value cannot stand in a script, or the container needs Slurm.
    """
    address, port = cluster.rendezvous_address(hosts), cluster.rendezvous_port(launch_dir.run)
    text = _render(
        "host.sh.jinja",
        launch_dir,
        cluster,
        launcher=launcher,
        module=module,
        hosts=hosts,
        names=quote_words(*(host.name for host in hosts)),
        counts=quote_words(*(host.processes for host in hosts)),
        address=address,
        port=port,
        endpoint=f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
        rdzv_id=launch_dir.run.name,
        stop_seconds=cluster.stop_seconds,
        python=cluster.interpreter,
    )
    return {"host.sh": text, **({"hostfile": _hostfile(hosts)} if launcher == "deepspeed" else {})}


def rank_scripts(
    module: str, launch_dir: LaunchDir, cluster: ClusterConfig, *, hosts: Sequence[Host]
) -> dict[str, str]:
    """The texts of rank.sh, which DeepSpeed's launcher runs over pdsh for each process, and of its hostfile.

    Raises:
        UserError: as `host_scripts`, or a path contains characters that the shells of pdsh interpret.
    """
    for path in (launch_dir.record, launch_dir.root):
        if not _PLAIN.fullmatch(str(path)):
            raise UserError(
                f"{path}: deepspeed passes words to pdsh unquoted, which only letters, digits and _@%+=:,./- survive; "
                "rename it, or set deepspeed_ssh: none in the cluster's config, or type --on torchrun"
            )
    text = _render("rank.sh.jinja", launch_dir, cluster, stage=quote_words(cluster.interpreter, "-m", module))
    return {"rank.sh": text, "hostfile": _hostfile(hosts)}


def pdsh_command(launch_dir: LaunchDir, cluster: ClusterConfig, hosts: Sequence[Host]) -> Command:
    """DeepSpeed's own command, which starts all hosts over pdsh.

    Raises:
        UserError: pdsh cannot take an option of ssh.
    """
    options = cluster.ssh.options
    for option in options:
        if shlex.split(option) != [option]:
            raise UserError(f"got the ssh option {option!r}, which pdsh splits at blanks and quotes; put it into a "
                            "file for -F, or set deepspeed_ssh: none")  # fmt: skip
    words = [
        *(cluster.interpreter, "-m", "deepspeed.launcher.runner", f"--hostfile={launch_dir.record / 'hostfile'}"),
        "--no_ssh_check",  # the check tries the first host only, and ignores ssh options
        f"--master_addr={cluster.rendezvous_address(hosts)}",
        f"--master_port={cluster.rendezvous_port(launch_dir.run)}",
        *("--force_multi", "--no_python", str(launch_dir.record / "rank.sh")),
    ]
    return Command(words, {"PDSH_SSH_ARGS_APPEND": " ".join(options)} if options else {})


def _hostfile(hosts: Sequence[Host]) -> str:
    return "".join(f"{host.name} slots={host.processes}\n" for host in hosts)


def _render(template: str, launch_dir: LaunchDir, cluster: ClusterConfig, **values: object) -> str:
    if cluster.container.kind == "pyxis":
        raise UserError("pyxis works under Slurm only; set container.kind=apptainer, or type --on slurm")
    return render(template, launch_dir=launch_dir, cluster=cluster, threads=1, **values)
