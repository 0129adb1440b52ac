"""Running commands in tests, in this process or in others; a failure shows all that they printed."""

import contextlib
import fcntl
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from launch.cli import main

ROOT = Path(__file__).parent.parent


def call(*arguments: str | Path, expect: int = 0) -> str:
    """Run `videomae ...arguments` in this process; returns standard output, fails on another exit code.

    A command that is expected to fail returns what it wrote to both streams, without a traceback.
    """
    out, err = io.StringIO(), io.StringIO()
    without_wandb = mock.patch.dict(os.environ, {"WANDB_MODE": "disabled"})
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), without_wandb:
        code = main([str(argument) for argument in arguments])
    assert code == expect, f"exit {code}\n--- stdout\n{out.getvalue()}\n--- stderr\n{err.getvalue()}"
    if expect == 0:
        return out.getvalue()
    assert "Traceback" not in err.getvalue()
    return out.getvalue() + err.getvalue()


def run_command(*arguments: str | Path, expect: int = 0, timeout: float = 540, **environment: str) -> str:
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


def run_processes(count: int, *arguments: str | Path, expect: int = 0, timeout: float = 540) -> str:
    """The same under torchrun with `count` processes on this machine."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
    return run_command(*launcher, "-m", *arguments, expect=expect, timeout=timeout)


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` filled: once for all test processes, the others wait for it."""
    root = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder, made = root / name, root / f"{name}.made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
