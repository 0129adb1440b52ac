"""Runs on two hosts that ssh reaches: under every launcher, stopped in every way, and with the network cut."""

import signal
from pathlib import Path

import pytest

from tests.cluster.hosts import Network, Process, until
from tests.cluster.runs import LAUNCH, START_SECONDS, Run
from tests.stages import losses
from videomae.core.signals import EXIT_STOPPED

pytestmark = pytest.mark.cluster

STOP_SECONDS = 90.0
HANG_SECONDS = 8.0
PATIENCE = f"health.hang_seconds={HANG_SECONDS}"


@pytest.mark.timeout(900)
def test_a_run_goes_on_under_any_launcher(ssh: Network, shards: Path, tmp_path: Path, undisturbed: Path) -> None:
    (tmp_path / "hostfile").write_text("n1 slots=1\nn2 slots=1\n")
    run = Run(tmp_path / "run", shards, {"hostfile": str(tmp_path / "hostfile")}, (PATIENCE,))

    over_pdsh = run.start(ssh["n1"], "deepspeed")
    run.reaches(20, over=lambda: not over_pdsh.running())
    assert ssh["n2"].processes(" -m pretrain ")
    over_pdsh.signal(signal.SIGTERM)
    _stopped(ssh, run, over_pdsh)

    without_its_ssh = run.start(ssh["n1"], "deepspeed", deepspeed_ssh="none")
    run.reaches(50, over=lambda: not without_its_ssh.running())
    with ssh["n2"].slowed("4mbit"):  # time to type on another host, which leaves a file STOP
        ssh["n2"].run(*LAUNCH, "stop", run.path)
        _stopped(ssh, run, without_its_ssh)

    torchrun = run.start(ssh["n1"], "torchrun")
    run.reaches(90, over=lambda: not torchrun.running())
    with ssh["n2"].slowed("20kbit"):  # minutes a step
        _ranks_end(ssh)
    _ended_by_watchdogs(ssh, run, torchrun)

    ssh["n1"].run(*run.words("torchrun"), seconds=START_SECONDS)
    assert run.resumed == 3
    assert losses(run.path) == losses(undisturbed)
    assert _left(ssh) == {}


@pytest.mark.timeout(600)
def test_a_slow_network_is_borne_and_one_that_is_cut_ends_the_run(ssh: Network, shards: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", shards, {"hosts": ["n1", "n2"]}, (PATIENCE, "schedule.duration=10000 steps"))
    process = run.start(ssh["n1"], "torchrun")
    run.reaches(5, over=lambda: not process.running())
    with ssh["n2"].slowed("20mbit"):
        run.reaches(run.step + 5, over=lambda: not process.running())
    with ssh.cable_pulled("n2"):
        _ranks_end(ssh)
    _ended_by_watchdogs(ssh, run, process)


def _ranks_end(ssh: Network) -> None:
    """Torchrun and its process end on each host by themselves."""

    def ranks() -> list[str]:
        return [line for host in ssh.hosts.values() for line in host.processes(" -m pretrain ").values()]

    until(lambda: not ranks(), seconds=4 * HANG_SECONDS + 30, what="the ranks' end", shown=lambda: f"{ranks()}")


def _ended_by_watchdogs(ssh: Network, run: Run, process: Process) -> None:
    """Both ranks have written where they stood, and all have left."""
    for rank in (0, 1):
        stacks = (run.path / "logs" / f"rank-{rank}.stacks.txt").read_text()
        assert "pretrain/train.py" in stacks
        assert f"not ended within {HANG_SECONDS:g} s" in stacks
    assert process.wait(seconds=STOP_SECONDS) == 1, process.said
    assert _left(ssh) == {}


def _stopped(ssh: Network, run: Run, process: Process) -> None:
    """It has saved on request, and nothing of it is left on any host."""
    assert process.wait(seconds=STOP_SECONDS) == EXIT_STOPPED, f"{process.said}\n{run.said()}"
    assert (run.path / "checkpoints" / f"step-{run.step:08d}").is_dir(), run.said()
    assert _left(ssh) == {}


def _left(ssh: Network) -> dict[str, str]:
    """What runs on the hosts but sshd, whose last session may be just about to end."""

    def found() -> dict[str, str]:
        lines = {name: list(host.processes().values()) for name, host in ssh.hosts.items()}
        return {name: line for name, those in lines.items() for line in those if "sshd" not in line}

    until(lambda: not found(), seconds=20, what="the end of all processes", shown=lambda: f"{found()}")
    return found()
