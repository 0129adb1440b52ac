"""The scripts of a run on hosts that ssh reaches: one that each host runs, or one that each process runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from launch.cluster import ClusterConfig, Host
from launch.job import Launcher
from launch.run_directory import LaunchDir
from launch.script import Shell, render, words
from launch.slurm_script import inside, stage
from videomae.core.errors import UserError

_PLAIN = re.compile(r"[\w@%+=:,./-]+")


def host_scripts(
    module: str, place: LaunchDir, cluster: ClusterConfig, *, hosts: Sequence[Host], on: Launcher
) -> dict[str, str]:
    """The texts of host.sh, which starts the processes of one host, and of DeepSpeed's hostfile.

    Raises:
        UserError: a value cannot stand in a script, or the container is Slurm's.
    """
    hostfile = {"hostfile": _hostfile(hosts)} if on == "deepspeed" else {}
    address, port = cluster.meeting(hosts), cluster.port_of(place.run)
    text = render(
        "host.sh.jinja",
        on=on,
        module=module,
        hosts=hosts,
        names=words(*(host.name for host in hosts)),
        counts=words(*(host.processes for host in hosts)),
        address=address,
        port=port,
        endpoint=f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
        identity=place.run.name,
        stop_seconds=cluster.stop_seconds,
        python=cluster.interpreter,
        **_prepared(place, cluster),
    )
    return {"host.sh": text, **hostfile}


def rank_scripts(module: str, place: LaunchDir, cluster: ClusterConfig, *, hosts: Sequence[Host]) -> dict[str, str]:
    """The texts of rank.sh, which DeepSpeed's launcher runs over pdsh as each process, and of its hostfile.

    Raises:
        UserError: as `host_scripts`; or a path holds what the shells of pdsh would take apart.
    """
    for path in (place.record, place.root):
        if not _PLAIN.fullmatch(str(path)):
            raise UserError(
                f"{path}: deepspeed hands its words to pdsh unquoted, which only plain letters, digits and _@%+=:,./- "
                "survive; rename it, or set deepspeed_ssh: none in the cluster's config, or type --on torchrun"
            )
    text = render("rank.sh.jinja", stage=stage(module, cluster), **_prepared(place, cluster))
    return {"rank.sh": text, "hostfile": _hostfile(hosts)}


def pdsh_words(place: LaunchDir, cluster: ClusterConfig, hosts: Sequence[Host]) -> list[str]:
    """DeepSpeed's own command, which starts all hosts over pdsh."""
    return [
        *(cluster.interpreter, "-m", "deepspeed.launcher.runner", f"--hostfile={place.record / 'hostfile'}"),
        "--no_ssh_check",  # it asks only the first host, and knows no options of ssh
        f"--master_addr={cluster.meeting(hosts)}",
        f"--master_port={cluster.port_of(place.run)}",
        *("--force_multi", "--no_python", str(place.record / "rank.sh")),
    ]


def _hostfile(hosts: Sequence[Host]) -> str:
    return "".join(f"{host.name} slots={host.processes}\n" for host in hosts)


def _prepared(place: LaunchDir, cluster: ClusterConfig) -> dict[str, object]:
    if cluster.container.kind == "pyxis":
        raise UserError("pyxis is a part of Slurm; set container.kind=apptainer, or type --on slurm")
    return {
        "place": place,
        "threads": 1,
        "setup": [Shell(line) for line in cluster.setup],
        "environment": list(cluster.environment.items()),
        "inside": inside(place, cluster),
    }
