"""Common parts of the commands: arguments, help text, exit codes, and user errors as one line on standard error.

This module imports no slow packages, so `videomae --help` is fast and the training commands install their signal
handlers before slow imports.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from videomae.core.errors import UserError
from videomae.core.signals import (
    EXIT_FAILED,
    EXIT_LIMIT,
    EXIT_MISTAKE,
    EXIT_STOPPED,
    LimitReached,
    Stopped,
    end_workers,
)

if TYPE_CHECKING:
    from videomae.core.distributed import World
    from videomae.run.config import TrainingConfig
    from videomae.run.directory import RunDirectory

T = TypeVar("T", bound="TrainingConfig")
F = TypeVar("F", bound=Callable[..., Any])

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
PATH = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output, and nothing else.")
_logger = logging.getLogger("videomae")
_MISTAKEN_PATHS = {
    errno.ENOENT: "no such file or folder; check the path",
    errno.EACCES: "permission denied; choose another path, or change its owner or permissions",
    errno.EPERM: "not permitted; choose another path, or change its owner or permissions",
    errno.EROFS: "the file system is read-only; choose another path",
    errno.EISDIR: "is a folder; give a file",
    errno.ENOTDIR: "a part of this path is a file, not a folder; check the path",
    errno.ENAMETOOLONG: "a name in this path is too long; most file systems allow 255 bytes; choose a shorter one",
    errno.EEXIST: "exists already; choose another path, or move it away",
    errno.ENOTEMPTY: "the folder is not empty; choose another path, or move its content away",
    errno.ELOOP: "its links lead in a circle; check the path",
}
_CODE = tuple(
    path
    for folder in (
        *(Path(__file__).parent.parent / name for name in ("videomae", "pretrain", "finetune", "launch")),
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    )
    for path in (Path(folder), Path(folder).resolve())  # a virtual environment may be a link
)
_LONGEST_PATH = 120  # characters of a path in a message


def examples(*lines: str) -> str:
    """Return the epilog of a command's --help: example commands to copy."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def config_arguments(function: F) -> F:
    """Add the arguments `CONFIG [key=value ...]` and the hidden option that the DeepSpeed launcher passes."""
    function = click.option("--local_rank", "--local-rank", hidden=True, expose_value=False)(function)
    function = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)
    return click.argument("config", type=PATH)(function)


def run_command(command: click.Command, arguments: Sequence[str] | None = None, *, name: str) -> int:
    """Parse `arguments` (default: `sys.argv[1:]`), run `command` and return the exit code."""
    code = 0

    def act() -> None:
        nonlocal code
        try:
            words = None if arguments is None else list(arguments)
            code = command.main(words, prog_name=name, standalone_mode=False, **SETTINGS) or 0
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else name
            raise UserError(f"{error.format_message().rstrip('.')}; see {where} --help") from None
        except click.Abort:
            raise KeyboardInterrupt from None

    return guarded(act) or code


def run_stage(
    schema: type[T], train: Callable[[T, World], RunDirectory], config: Path, overrides: Sequence[str]
) -> int:
    """Train with a config on this rank and return the exit code.

    With more than one rank, or after a stop, the process exits here and the function does not return.
    """
    return finish(guarded(lambda: _run(schema, train, config, overrides)))


def finish(code: int) -> int:
    """Return `code` if this is the only rank; exit the process with more than one rank, or after a stop.

    A stop may come from a ctrl-C that also ended the process reading our output. The broken pipe would make the
    interpreter exit with another code.
    """
    end_workers()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or code == EXIT_STOPPED:
        from videomae.core.distributed import end_process

        end_process(code)
    return code


def _run(schema: type[T], train: Callable[[T, World], RunDirectory], config: Path, overrides: Sequence[str]) -> None:
    from videomae.core.config import load
    from videomae.core.distributed import distributed_context
    from videomae.core.progress import log_to

    settings = load(schema, config, overrides)
    with distributed_context(os.environ, timeout=settings.health.collective_seconds) as world:
        log_to(None, console_too=world.is_main)
        run = train(settings, world)
        if world.is_main:
            _logger.info("run directory: %s", run.path)


def guarded(action: Callable[[], object]) -> int:
    """Run `action` and return the exit code; report a user error, a full disk or a stop as one line on standard error.

    Exit codes: 0 finished, 2 user error, also a path that cannot be used, 75 stopped and saved, 76 health limit
    reached, 1 any other error.
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
        _say("interrupted; unsaved work is lost", by_all=False)
        return EXIT_FAILED
    except (UserError, OSError, FloatingPointError) as error:
        known = _explain_os_error(error) if isinstance(error, OSError) else str(error)
        _logger.debug("origin of the error", exc_info=error)  # to the run's log, not to the terminal
        _say(f"error: {known}" if known else traceback.format_exc().rstrip())
        return EXIT_MISTAKE if isinstance(error, UserError) or _is_mistaken_path(error) else EXIT_FAILED
    except Exception as error:  # a bug, or the failure of another rank: traceback to log and terminal
        _logger.debug("this rank ends", exc_info=error)
        _say(traceback.format_exc().rstrip())
        return EXIT_FAILED
    return 0


def _is_mistaken_path(error: BaseException) -> bool:
    """Whether an OSError concerns a path that the user named, directly or in a config, and can correct.

    Paths of the code itself and errors without a path are bugs.
    """
    if (
        not isinstance(error, OSError)
        or error.errno not in _MISTAKEN_PATHS
        or not isinstance(error.filename, str | bytes)
    ):
        return False
    path = Path(os.fsdecode(error.filename)).absolute()
    return not any(path.is_relative_to(folder) for folder in _CODE)


def _explain_os_error(error: OSError) -> str:
    """One line with the path and what to do; empty for a bug, whose traceback is to be seen."""
    if error.errno is None:  # our own, with a message that says all
        return str(error)
    if error.filename is None or isinstance(error.filename, int):
        return ""
    path = os.fsdecode(error.filename)
    shown = path if len(path) <= _LONGEST_PATH else f"{path[: _LONGEST_PATH // 2]}...{path[-_LONGEST_PATH // 2 :]}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{shown}: no space left on this disk; free some, and type the same command"
    if error.errno in _MISTAKEN_PATHS:
        return f"{shown}: {_MISTAKEN_PATHS[error.errno]}" if _is_mistaken_path(error) else ""
    return str(error)  # a fault of the disk or of the node


def _say(text: str, *, by_all: bool = True) -> None:
    """Write to standard error, on all ranks or, with `by_all=False`, only on rank 0."""
    if by_all or os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # the reader may have exited
            sys.stderr.write(f"{text}\n")
