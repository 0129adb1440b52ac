"""`python -m launch CONFIG [--on local|torchrun|deepspeed] [--processes N] [--dry-run] [key=value ...]`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from launch.job import LAUNCHERS, Job
from launch.local import run
from videomae.command import guarded


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launch", description="From a config to processes.")
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--on", choices=LAUNCHERS, default="torchrun")
    parser.add_argument("--processes", type=int, help="default: every GPU; 1 where there is none")
    parser.add_argument("--dry-run", action="store_true", help="print the command and stop")
    given = parser.parse_intermixed_args()
    code = 0

    def launch() -> None:
        nonlocal code
        job = Job.read(given.config, given.overrides)
        command = job.command(on=given.on, processes=given.processes)
        if given.dry_run:
            print(shlex.join(command.words))
        else:
            code = run(command)

    return guarded(launch) or code


if __name__ == "__main__":
    sys.exit(main())
