"""The two ranks of a pretraining run, forked from a process that has imported everything: a start takes a second.

Each rank leads a session of its own, so that whatever it starts can be found after its death.
"""

import os
import signal
import socket
import time
import traceback
from pathlib import Path

import torch

from pretrain.config import PretrainConfig
from pretrain.train import train
from videomae.command import run_stage

SIZE = 2


class Ranks:
    """The processes of one start of a run."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        port = _free_port()
        self.log = log
        self.pids = [_fork(rank, port, arguments, log) for rank in range(SIZE)]
        self._codes: dict[int, int] = {}

    def codes(self) -> dict[int, int]:
        """Exit codes by pid of those that have ended; minus the signal's number where one ended it."""
        for pid in self.pids:
            if pid not in self._codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self._codes[pid] = os.waitstatus_to_exitcode(status)
        return self._codes

    def ended(self, *, within: float = 0.0) -> bool:
        """Whether all have ended, waiting up to `within` seconds for it."""
        ends = time.monotonic() + within
        while len(self.codes()) < SIZE:
            if time.monotonic() >= ends:
                return False
            time.sleep(0.005)
        return True

    def kill(self, *ranks: int) -> None:
        """SIGKILL to those of `ranks` that still run."""
        for rank in ranks:
            if self.pids[rank] not in self.codes():
                os.kill(self.pids[rank], signal.SIGKILL)

    def said(self) -> str:
        """The end of what the processes wrote."""
        return self.log.read_text()[-4000:] if self.log.exists() else ""


def orphans(sessions: set[int], *, within: float) -> list[str]:
    """Processes that still run in the sessions of ranks, after up to `within` seconds."""
    ends = time.monotonic() + within
    while left := _processes(sessions):
        if time.monotonic() >= ends:
            break
        time.sleep(0.1)
    return left


def _processes(sessions: set[int]) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(") ")
        except OSError:
            continue  # it has ended meanwhile
        state, _, _, session = rest.split()[:4]
        if int(session) in sessions and state != "Z":
            found.append(f"{name}) {state}")
    return found


def _fork(rank: int, port: int, arguments: list[str], log: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": SIZE, "LOCAL_WORLD_SIZE": SIZE}
        os.environ.update({name: str(value) for name, value in world.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
        torch.set_num_threads(1)
        code = run_stage(PretrainConfig, train, Path(arguments[0]), arguments[1:])
    except BaseException:  # the child of a fork must not go on as its parent, whatever happens
        traceback.print_exc()
    finally:
        os._exit(code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
