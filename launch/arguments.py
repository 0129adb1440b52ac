"""The flags that launching one config and a chain of them share."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from launch.cluster import ClusterConfig
from launch.job import LAUNCHERS
from videomae.core.config import load
from videomae.core.errors import UserError


def shared() -> argparse.ArgumentParser:
    """A parser to build on."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--on", choices=LAUNCHERS, default="torchrun")
    parser.add_argument("--cluster", type=Path, help="a file below configs/cluster/")
    parser.add_argument("--nodes", type=int, help="default: the cluster file's, or all of its hosts")
    parser.add_argument("--processes", type=int, help="on each node; default: one a GPU; 1 where there is none")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and scripts, and stop")
    parser.add_argument("--force", action="store_true", help="start although the run seems to be alive")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON, alone")
    return parser


def cluster_of(given: argparse.Namespace) -> ClusterConfig | None:
    """The cluster's file under the flags, if one was given.

    Raises:
        UserError: several nodes are asked for, and none are known.
    """
    if given.cluster is None:
        if given.nodes not in (None, 1):
            raise UserError(f"--nodes {given.nodes} needs to know them; type --cluster configs/cluster/two_hosts.yaml")
        return None
    changed = {"nodes": given.nodes, "processes_per_node": given.processes}
    return replace(load(ClusterConfig, given.cluster), **{name: count for name, count in changed.items() if count})
