"""One start at a time: before a start touches anything of a run, it makes sure that no other one lives.

Who lives is found out, never guessed from a date. A process of the same machine is looked up, by its number and its
start. One of another machine, or inside another container, is watched: its owner touches the claim every few seconds,
and when nothing has moved for long enough it is dead. So a run goes on by itself after any crash, if a little later.

One who is about to go is waited for: it was asked to stop, its launcher is dead, or it is an earlier start of our own
job. Everybody else who lives keeps the run, and this start says so and ends.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.core.signals import Stopped, handle_signals
from videomae.run import claims
from videomae.run.claims import BEAT_SECONDS, Held, LockRecord, RunLock

_LOOK_SECONDS = 1.0
_BEATS = 9  # in the time after which silence means death
_UNREADABLE_LOOKS = 3  # for a claim that is being written this moment


class RunOwnedError(UserError):
    """Another start of the run lives."""


@dataclass(frozen=True)
class LockTimeouts:
    """For how long others are watched, in seconds."""

    silence: float  # without a sign of life, after which the start of another machine is dead
    leaving: float  # for one that is about to go

    @property
    def beat(self) -> float:
        return min(BEAT_SECONDS, self.silence / _BEATS)

    @property
    def look(self) -> float:
        return min(_LOOK_SECONDS, self.beat)

    @property
    def moving(self) -> float:
        """For one of another machine that moves: its launcher may have died, and it says so with its next beat."""
        return 4 * self.beat


def acquire(run: Path, environment: Mapping[str, str], *, patience: LockTimeouts) -> RunLock:
    """Make this process the run's owner; called by rank 0, before anything of the run is touched.

    Raises:
        RunOwnedError: another start lives, and does not leave.
        Stopped: a stop was asked for while another one was waited for.
        OSError: the run's folder cannot be written.
    """
    mine = LockRecord.of_this_process(environment)
    watch: _Watch | None = None
    with handle_signals() as stop:
        while True:
            held = claims.read_lock(run)
            if watch is None or watch.held.number != held.number:
                watch = _Watch(run, held, mine, patience)
            if watch.free(held) and claims.take(run, held.number + 1, mine):
                return RunLock(run, held.number + 1, mine, beat=patience.beat)
            if stop.reason is not None:
                raise Stopped(f"stopped before {run} was touched: {stop.reason}")
            time.sleep(patience.look)


@dataclass
class _Watch:
    """What is seen of one claim from when it was first found."""

    run: Path
    held: Held
    mine: LockRecord
    patience: LockTimeouts
    _looks: int = field(default=-1, init=False)  # since the last sign; a look that a filesystem holds up counts once
    _moved: bool = field(default=False, init=False)
    _said: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    def free(self, held: Held) -> bool:
        """Whether nobody has the run, as `held` shows it now; say what is waited for.

        Raises:
            RunOwnedError: somebody has, and keeps it.
        """
        self._looks += 1
        if held.sign != self.held.sign:
            self.held, self._moved, self._looks = held, True, 0
        other = held.claim
        if other is None:
            return not held.sign[1] or self._looks > _UNREADABLE_LOOKS
        seen = other.process.lives()
        if other.over or seen is False or other.process == self.mine.process:
            return True
        if seen is None and self._looks * self.patience.look >= self.patience.silence:
            logger.warning("%s, gives no sign of life and is taken for dead", self._named(other))
            return True
        self._wait_or_refuse(other, visible=seen is True)
        return False

    def _wait_or_refuse(self, other: LockRecord, *, visible: bool) -> None:
        why, waited = self._why_it_leaves(other), time.monotonic() - self._began
        patience = self.patience.leaving if why else (0.0 if visible else self.patience.moving)
        if waited >= patience and (visible or (self._moved and self._looks == 0)):
            lives = "it runs" if visible else "it has just given a sign of life"
            late = f", but it is still there after {waited:.0f} s ({why})" if why else ""
            raise RunOwnedError(
                f"{self._named(other)}; {lives}{late}. To end it: `videomae stop {shlex.quote(str(self.run))}`;"
                " or wait until it has ended; for another run beside it type run=PATH"
            )
        if why:
            self._say(f"{self._named(other)}: {why}; waiting up to {patience:.0f} s until it has left")
        elif not visible:
            seconds = self.patience.silence
            self._say(f"{self._named(other)}, whose processes cannot be seen from here: waiting for a sign of life, "
                      f"up to {seconds:.0f} s; without one it is dead and this start goes on")  # fmt: skip

    def _why_it_leaves(self, other: LockRecord) -> str | None:
        if other.leaving is not None:
            return f"it is being stopped ({other.leaving})"
        dead = [launcher.pid for launcher in other.launchers if launcher.lives() is False]
        if dead:
            return f"its launcher, process {dead[0]}, is gone, so it saves and leaves"
        return "it is an earlier start of this same job" if self.mine.follows(other) else None

    def _named(self, other: LockRecord) -> str:
        job = f", {other.launcher.kind} job {other.launcher.job}" if other.launcher.job else ""
        started = f"started by {other.launcher.kind}" if not job else "started"
        return f"{self.run} is owned by process {other.process.pid} on {other.host}{job}, {started} {other.since}"

    def _say(self, text: str) -> None:
        if text != self._said:
            logger.warning("%s", text)
            self._said = text
