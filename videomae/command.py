"""What the training commands share: arguments, the world, and errors as one clear line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from videomae.config import load
from videomae.distributed import World, connected, end_process
from videomae.progress import log_to, logger
from videomae.run import RunDirectory
from videomae.stopping import EXIT_STOPPED, Stopped

T = TypeVar("T")
EXIT_MISTAKE = 2  # the user's mistake: bad config, bad data


def run_stage(
    module: str, schema: type[T], train: Callable[[T, World], RunDirectory], arguments: Sequence[str] | None = None
) -> int:
    """Parse `CONFIG [key=value ...]`, train on this process's rank, and return the exit code.

    One process of several ends here and does not return.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=f"Run a config of the {module} stage.")
    parser.add_argument("config", type=Path, help="a YAML file, such as those below configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example optimizer.lr=3e-4")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    given = parser.parse_args(arguments)
    return finish(guarded(lambda: _run(schema, train, given.config, given.overrides)))


def finish(code: int) -> int:
    """Give back `code` in a process of its own; one of several processes ends here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_process(code)
    return code


def _run(schema: type[T], train: Callable[[T, World], RunDirectory], config: Path, overrides: Sequence[str]) -> None:
    with connected(os.environ) as world:
        log_to(None, console_too=world.first)
        run = train(load(schema, config, overrides), world)
        if world.first:
            logger.info("run directory: %s", run.path)


def guarded(action: Callable[[], object]) -> int:
    """Run `action`; a user's mistake or a full disk becomes one line on standard error, and an exit code."""
    try:
        action()
    except Stopped as stop:
        sys.stderr.write(f"{stop}\n")
        return EXIT_STOPPED
    except (ValueError, OSError, FloatingPointError) as error:
        logger.debug("the error's origin", exc_info=error)  # into the run's log, not before the user
        sys.stderr.write(f"error: {error}\n")
        return EXIT_MISTAKE if isinstance(error, ValueError) else 1
    return 0
