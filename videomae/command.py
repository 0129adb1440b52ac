"""What the training commands share: arguments, the world, and errors as one clear line."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from videomae.core.config import load
from videomae.core.distributed import World, distributed_context, end_process
from videomae.core.errors import UserError
from videomae.core.progress import log_to, logger
from videomae.core.signals import (
    EXIT_FAILED,
    EXIT_LIMIT,
    EXIT_MISTAKE,
    EXIT_STOPPED,
    LimitReached,
    Stopped,
    end_workers,
)
from videomae.run.directory import RunDirectory
from videomae.stage import TrainingConfig

T = TypeVar("T", bound=TrainingConfig)


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
    """Give back `code` in a process of its own; one of several processes ends here, and one that was stopped.

    A stop may be a ctrl-C that also ended whoever read our output, and the interpreter would make another exit code of
    that.
    """
    end_workers()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or code == EXIT_STOPPED:
        end_process(code)
    return code


def _run(schema: type[T], train: Callable[[T, World], RunDirectory], config: Path, overrides: Sequence[str]) -> None:
    settings = load(schema, config, overrides)
    with distributed_context(os.environ, timeout=settings.health.collective_seconds) as world:
        log_to(None, console_too=world.is_main)
        run = train(settings, world)
        if world.is_main:
            logger.info("run directory: %s", run.path)


def guarded(action: Callable[[], object]) -> int:
    """Run `action`; a user's mistake, a full disk or a stop becomes one line on standard error, and an exit code.

    0 finished, 2 the user's mistake, 75 stopped and saved, 76 a limit of health is reached, 1 everything else.
    """
    try:
        action()
    except Stopped as stop:
        _say(str(stop), by_all=False)
        return EXIT_STOPPED
    except LimitReached as limit:
        _say(f"error: {limit}", by_all=False)
        return EXIT_LIMIT
    except KeyboardInterrupt:
        _say("interrupted; what is not saved is lost", by_all=False)
        return EXIT_FAILED
    except (UserError, OSError, FloatingPointError) as error:
        logger.debug("the error's origin", exc_info=error)  # into the run's log, not before the user
        _say(f"error: {error}")
        return EXIT_MISTAKE if isinstance(error, UserError) else EXIT_FAILED
    except Exception as error:  # a bug, or another rank's end: the traceback, to both
        logger.debug("this rank ends", exc_info=error)
        _say(traceback.format_exc().rstrip())
        return EXIT_FAILED
    return 0


def _say(text: str, *, by_all: bool = True) -> None:
    """Write to standard error; what is the same on every rank is said by the first alone."""
    if by_all or os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # nobody may be left to read it
            sys.stderr.write(f"{text}\n")
