"""The training's end of the W&B mirror, a process of its own that follows metrics.jsonl: how it is started and ended.

Whatever W&B does, hang, fail or eat memory, it does there. Training writes a line to the file and looks, without
waiting, at what the mirror has to say. Nothing is queued, because the file is the queue. Only the end waits, not long.
"""

from __future__ import annotations

import math
import netrc
import os
import secrets
import subprocess
import sys
import time
from contextlib import suppress

from videomae.core.progress import logger
from videomae.run.directory import RunDirectory
from videomae.run.metrics.config import MetricsConfig

CONNECTED = "connected"  # said by the mirror, then the address of the run
CONNECT_SECONDS = {"online": 4.0, "offline": 20.0}  # at the end, for a mirror that has not begun
FINISH_SECONDS = 15.0  # at the end, for one that has
KILL_SECONDS = 2.0  # for one that was killed to be gone
_CHILD = "videomae.run.metrics.wandb_mirror"
_ONLY_FILE = "metrics.jsonl holds everything, and `videomae sync {run}` sends it later"


def start_wandb_sync(run: RunDirectory, metrics: MetricsConfig) -> WandbSync | None:
    """The mirror of a run, or None where it is switched off or cannot be started."""
    mode = mode_of(metrics)
    if mode == "disabled":
        return None
    command = [sys.executable, "-m", _CHILD, str(run.path), metrics.project, mode, str(os.getpid())]
    environment = {"WANDB_ERROR_REPORTING": "false", **os.environ}  # what goes wrong is told here, not to W&B's makers
    log = run.path / "logs" / "wandb.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            process = subprocess.Popen(  # its own group: ctrl-C and a launcher's signals are for the training
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                process_group=0,
                env=environment,
            )
    except OSError as error:
        logger.warning("W&B is not available (%s); %s", error, _ONLY_FILE.format(run=run.path))
        return None
    return WandbSync(process, run, mode)


def mode_of(metrics: MetricsConfig) -> str:
    """online, offline or disabled; `auto` follows WANDB_MODE, then whether the user is logged in."""
    if metrics.wandb != "auto":
        return metrics.wandb
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("online", "offline", "disabled"):
        return asked
    return "online" if _logged_in() else "offline"


def run_id(run: RunDirectory) -> str:
    """The id of the run at W&B, drawn once and kept in the run's directory, so that all its parts are one run."""
    file = run.path / "wandb_id"
    if not file.exists() or not file.read_text().strip():
        file.write_text(secrets.token_hex(4) + "\n")
    return file.read_text().strip()


class WandbSync:
    """A running mirror process."""

    def __init__(self, process: subprocess.Popen[bytes], run: RunDirectory, mode: str) -> None:
        self._process, self._run, self._mode = process, run, mode
        self._connected = False
        self._ended = False
        self._unread = b""
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)

    def look(self) -> None:
        """Pass on what the mirror says; never waits."""
        if self._ended:
            return
        alive = self._process.poll() is None
        self._listen()
        if not alive:
            self._ended = True
            if self._process.returncode:
                reason = f"ended with code {self._process.returncode}, see {self._run.path / 'logs' / 'wandb.log'}"
                logger.warning("the W&B mirror %s; %s", reason, _ONLY_FILE.format(run=self._run.path))

    def close(self, *, seconds: float = math.inf) -> None:
        """Let the mirror take the rest of the file, for a bounded time and at most `seconds`, then end it."""
        if self._process.poll() is None:
            self._ask_to_finish()
            start = time.monotonic()
            while self._process.poll() is None and time.monotonic() - start < min(seconds, self._patience()):
                time.sleep(0.02)
                self._listen()
            if self._process.poll() is None:
                self._process.kill()
                self._ended = True
                after = f"was ended after {time.monotonic() - start:.0f} s"
                logger.warning("W&B did not take everything and %s; %s", after, _ONLY_FILE.format(run=self._run.path))
        self.look()
        with suppress(subprocess.TimeoutExpired):  # a killed process may still wait for a filesystem that hangs
            self._process.wait(KILL_SECONDS)
        self._ended = True
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _patience(self) -> float:
        return FINISH_SECONDS if self._connected else CONNECT_SECONDS[self._mode]

    def _ask_to_finish(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"finish\n")
            self._process.stdin.close()
        except OSError:  # it ended in this moment
            self._listen()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            said = os.read(self._process.stdout.fileno(), 65536)
        except BlockingIOError:
            return
        *lines, self._unread = (self._unread + said).split(b"\n")
        for line in lines:
            level, _, text = line.decode(errors="replace").partition(" ")
            if level == CONNECTED:
                self._connected = True
                if text:
                    logger.info("W&B: %s", text)
            elif level == "warning":
                logger.warning("W&B: %s; training goes on, %s", text, _ONLY_FILE.format(run=self._run.path))


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
