"""Launchers are known by what their command line runs, and missed when they are gone."""

import os
import subprocess
import sys

import pytest

from videomae.core.processes import Launcher, command_output, find_launchers, first_dead, program_of


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -u -m deepspeed.launcher.launch --world_info=x pretrain", "deepspeed.launcher.launch"),
        ("/venv/bin/python3 /venv/bin/deepspeed --num_gpus 2 --module pretrain launch", "deepspeed"),
        ("python /venv/bin/torchrun --nproc-per-node 2 -m pretrain", "torchrun"),
        ("python -m launch launch configs/x.yaml", "launch"),
        ("/venv/bin/python /venv/bin/videomae launch configs/x.yaml", "videomae"),
        ("bash", None),
        ("python -m", None),
        ("/bin/bash ./submit.sh torchrun", "submit.sh"),
    ],
)
def test_the_program_of_a_command_line(line: str, expected: str | None) -> None:
    assert program_of(line.split()) == expected


def test_a_shell_above_is_no_launcher() -> None:
    code = "from videomae.core.processes import find_launchers; print(find_launchers())"
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c '{code}'; true"], capture_output=True, text=True)
    assert done.stdout == "()\n", done.stderr


def test_the_dead_are_missed() -> None:
    here = Launcher(os.getppid(), os.getpid(), "torchrun")
    assert first_dead((here,)) is None
    gone = Launcher(os.getppid() + 1, os.getpid(), "deepspeed")
    assert first_dead((here, gone)) == gone
    assert first_dead(()) is None
    assert first_dead(find_launchers()) is None


def test_what_a_command_writes_may_be_no_text() -> None:
    assert os.fsencode(command_output("printf", r"caf\351") or "") == b"caf\351"
    assert command_output("false") is None
    assert command_output("no-such-command") is None
