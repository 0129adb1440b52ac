"""Starting commands and groups of processes in tests; every child's whole output is kept and shown on failure."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run_command(*arguments: str | Path, expect: int = 0, timeout: float = 240, **environment: str) -> str:
    """Run `python -m ...arguments` from the repository's root; returns standard output, fails on another exit code."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == expect, f"exit {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    return done.stdout if expect == 0 else done.stdout + done.stderr


def run_processes(count: int, *arguments: str | Path, expect: int = 0, timeout: float = 240) -> str:
    """The same under torchrun with `count` processes on this machine."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    return run_command(*launcher, "-m", *arguments, expect=expect, timeout=timeout)


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` filled: once for all test processes, the others wait for it."""
    root = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            staging = root / f"{name}.part"
            staging.mkdir()
            make(staging)
            staging.rename(folder)
    return folder
