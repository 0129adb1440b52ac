"""The clusters that these tests run on; a machine that cannot have them skips the tests with a reason.

The first test that needs a cluster starts it, and it serves the whole session. Clusters are independent of each other,
network addresses included, so two test processes may each have one at the same time.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import slurm as slurm_cluster
from tests.cluster import ssh as ssh_hosts
from tests.cluster.hosts import Network, missing
from tests.cluster.runs import two_process_arguments
from tests.cluster.slurm import Slurm
from tests.processes import once, run_processes


def _skip_where_missing(*tools: str) -> None:
    reason = missing(*tools)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Slurm: login node `head`, compute nodes `n1` and `n2`."""
    _skip_where_missing(*slurm_cluster.TOOLS)
    with slurm_cluster.slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Two hosts `n1` and `n2` with sshd."""
    _skip_where_missing(*ssh_hosts.TOOLS)
    with ssh_hosts.ssh(tmp_path_factory.mktemp("ssh")) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference run: two processes under torchrun on this machine, never stopped."""

    def make(folder: Path) -> None:
        run_processes(2, "pretrain", *two_process_arguments(folder / "run", shards))

    return once(tmp_path_factory, "undisturbed", make) / "run"
