"""Runs on two hosts over ssh: under every launcher, stopped in every way, and with a slow or cut network."""

import signal
from pathlib import Path

import pytest

from tests.cluster.hosts import Network, Process, until
from tests.cluster.runs import DEADLINE, LAUNCH, Run
from tests.stages import losses
from videomae.core.signals import EXIT_STOPPED

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
HANG_SECONDS = 30.0  # a step takes milliseconds, but a busy machine may delay it for seconds
HANG = f"health.hang_seconds={HANG_SECONDS}"


def test_a_run_goes_on_under_any_launcher(ssh: Network, shards: Path, tmp_path: Path, undisturbed: Path) -> None:
    (tmp_path / "hostfile").write_text("n1 slots=1\nn2 slots=1\n")
    run = Run(tmp_path / "run", shards, {"hostfile": str(tmp_path / "hostfile")}, (HANG,))

    # A slow network bounds the speed of the run, so that it cannot finish before it is stopped.
    with ssh["n2"].slowed("20mbit"):
        over_pdsh = run.start(ssh["n1"], "deepspeed")
        run.reaches(20, over=lambda: not over_pdsh.running())
        assert ssh["n2"].processes(" -m pretrain ")
        over_pdsh.signal(signal.SIGTERM)
        _stopped(ssh, run, over_pdsh)

        without_pdsh = run.start(ssh["n1"], "deepspeed", deepspeed_ssh="none")
        run.reaches(50, over=lambda: not without_pdsh.running())
    with ssh["n2"].slowed("2mbit"):  # a command typed on another host takes seconds
        ssh["n2"].run(*LAUNCH, "stop", run.path)
        _stopped(ssh, run, without_pdsh)

    with ssh["n2"].slowed("20mbit"):
        torchrun = run.start(ssh["n1"], "torchrun")
        run.reaches(90, over=lambda: not torchrun.running())
    with ssh["n2"].slowed("20kbit"):  # minutes per step
        _ranks_end(ssh)
    _ended_by_watchdogs(ssh, run, torchrun)

    ssh["n1"].run(*run.words("torchrun"), seconds=DEADLINE)
    assert run.resumed == 3
    assert losses(run.path) == losses(undisturbed)
    assert _left(ssh) == {}


def test_a_slow_network_is_borne_and_one_that_is_cut_ends_the_run(ssh: Network, shards: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", shards, {"hosts": ["n1", "n2"]}, (HANG, "schedule.duration=10000 steps"))
    process = run.start(ssh["n1"], "torchrun")
    run.reaches(5, over=lambda: not process.running())
    with ssh["n2"].slowed("20mbit"):
        run.reaches(run.step + 5, over=lambda: not process.running())
    with ssh.cable_pulled("n2"):
        _ranks_end(ssh)
    _ended_by_watchdogs(ssh, run, process)


def _ranks_end(ssh: Network) -> None:
    """Torchrun and its process exit on each host by themselves."""

    def ranks() -> list[str]:
        return [line for host in ssh.hosts.values() for line in host.processes(" -m pretrain ").values()]

    until(lambda: not ranks(), seconds=DEADLINE, what="the ranks' end", shown=lambda: f"{ranks()}")


def _ended_by_watchdogs(ssh: Network, run: Run, process: Process) -> None:
    """Both ranks have written their stacks, and all processes have exited."""
    for rank in (0, 1):
        stacks = (run.path / "logs" / f"rank-{rank}.stacks.txt").read_text()
        assert "pretrain/train.py" in stacks
        assert f"not ended within {HANG_SECONDS:g} s" in stacks
    assert process.wait(seconds=DEADLINE) == 1, process.said
    assert _left(ssh) == {}


def _stopped(ssh: Network, run: Run, process: Process) -> None:
    """The run has saved on request, and no process of it is left on any host."""
    assert process.wait(seconds=DEADLINE) == EXIT_STOPPED, f"{process.said}\n{run.said()}"
    assert (run.path / "checkpoints" / f"step-{run.step:08d}").is_dir(), run.said()
    assert _left(ssh) == {}


def _left(ssh: Network) -> dict[str, str]:
    """The processes on the hosts except sshd, whose last session may still be closing."""

    def found() -> dict[str, str]:
        lines = {name: list(host.processes().values()) for name, host in ssh.hosts.items()}
        return {name: line for name, those in lines.items() for line in those if "sshd" not in line}

    until(lambda: not found(), seconds=DEADLINE, what="the end of all processes", shown=lambda: f"{found()}")
    return found()
