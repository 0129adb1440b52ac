"""Start and stop the W&B process, which follows metrics.jsonl and sends it to W&B.

If W&B hangs, fails or runs out of memory, only that process is affected. Training appends a line to the file and reads
the process's messages without blocking. There is no queue other than the file. Only `close` waits, for a bounded time.
"""

from __future__ import annotations

import importlib.util
import math
import netrc
import os
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from videomae.core.progress import logger
from videomae.run.directory import RunDirectory
from videomae.run.metrics.config import MetricsConfig

CONNECTED = "connected"  # a message of the process, followed by the address of the run
CONNECT_SECONDS = {"online": 4.0, "offline": 20.0}  # to finish, for a process that has not connected
FINISH_SECONDS = 15.0  # to finish, for one that has
KILL_SECONDS = 2.0  # for a killed process to exit
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
_MODULE = "videomae.run.metrics.wandb_process"
_ONLY_FILE = "metrics.jsonl is complete; send it later with `videomae sync {run}`"


def start_wandb_sync(run: RunDirectory, metrics: MetricsConfig) -> WandbSync | None:
    """Start the W&B process of a run; None if W&B is disabled or missing, or the process cannot be started."""
    mode = mode_of(metrics)
    if mode == "disabled":
        return None
    if importlib.util.find_spec("wandb") is None:
        logger.warning("wandb is not installed, so nothing is sent to W&B; type metrics.wandb=disabled to say so")
        return None
    command = [sys.executable, "-m", _MODULE, str(run.path), metrics.project, mode, str(os.getpid())]
    environment = {"WANDB_ERROR_REPORTING": "false", **os.environ}  # do not report crashes to W&B's developers
    log = run.path / "logs" / "wandb.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            process = subprocess.Popen(  # own process group: ctrl-C and the launcher's signals are meant for training
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, process_group=0, env=environment
            )
    except OSError as error:
        logger.warning("W&B is not available (%s); %s", error, _ONLY_FILE.format(run=run.path))
        return None
    return WandbSync(process, run, mode)


def mode_of(metrics: MetricsConfig) -> str:
    """online, offline or disabled: the requested mode, whose `auto` is online if the user is logged in."""
    mode = requested_mode(metrics)
    return mode if mode != "auto" else ("online" if is_logged_in() else "offline")


def requested_mode(metrics: MetricsConfig) -> str:
    """The mode of WANDB_MODE or else of the config.

    WANDB_MODE goes before the config, as in wandb itself, so that one environment holds for all runs of a machine.
    """
    return _MODES.get(os.environ.get("WANDB_MODE", "").strip().lower(), metrics.wandb)


def server() -> SplitResult:
    """The address of the W&B server."""
    return urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))


def is_logged_in() -> bool:
    """Whether this machine holds a key for the server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(server().hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def run_id(run: RunDirectory) -> str:
    """The W&B id of the run, drawn once and kept in its directory, so that all starts are one W&B run."""
    file = run.path / "wandb_id"
    if not file.exists() or not file.read_text().strip():
        file.write_text(secrets.token_hex(4) + "\n")
    return file.read_text().strip()


class WandbSync:
    """The running W&B process."""

    def __init__(self, process: subprocess.Popen[bytes], run: RunDirectory, mode: str) -> None:
        self._process, self._run, self._mode = process, run, mode
        self._connected = False
        self._ended = False
        self._unread = b""
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)

    def poll(self) -> None:
        """Log the messages of the process; never waits."""
        if self._ended:
            return
        alive = self._process.poll() is None
        self._read_messages()
        if not alive:
            self._ended = True
            if self._process.returncode:
                reason = f"ended with code {self._process.returncode}, see {self._run.path / 'logs' / 'wandb.log'}"
                logger.warning("the W&B process %s; %s", reason, _ONLY_FILE.format(run=self._run.path))

    def close(self, *, seconds: float = math.inf) -> None:
        """Let the process send the rest of the file, for a bounded time of at most `seconds`, then end it."""
        if self._process.poll() is None:
            self._request_finish()
            start = time.monotonic()
            while self._process.poll() is None and time.monotonic() - start < min(seconds, self._timeout()):
                time.sleep(0.02)
                self._read_messages()
            if self._process.poll() is None:
                self._process.kill()
                self._ended = True
                seconds = time.monotonic() - start
                logger.warning("W&B did not finish within %.0f s; %s", seconds, _ONLY_FILE.format(run=self._run.path))
        self.poll()
        with suppress(subprocess.TimeoutExpired):  # a killed process may be blocked in a filesystem that hangs
            self._process.wait(KILL_SECONDS)
        self._ended = True
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _timeout(self) -> float:
        return FINISH_SECONDS if self._connected else CONNECT_SECONDS[self._mode]

    def _request_finish(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"finish\n")
            self._process.stdin.close()
        except OSError:  # the process has just ended
            self._read_messages()

    def _read_messages(self) -> None:
        assert self._process.stdout is not None
        try:
            data = os.read(self._process.stdout.fileno(), 65536)
        except BlockingIOError:
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            level, _, text = line.decode(errors="replace").partition(" ")
            if level == CONNECTED:
                self._connected = True
                if text:
                    logger.info("W&B: %s", text)
            elif level == "warning":
                logger.warning("W&B: %s; training continues, %s", text, _ONLY_FILE.format(run=self._run.path))
