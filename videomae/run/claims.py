"""Who owns a run: numbered claims in RUN/owner/, of which the highest counts.

A claim is made by linking a whole file to the next number, which a filesystem does for one process alone, whether it
has locks or not. Its owner touches it every few seconds, so that other machines see it live without comparing clocks,
and marks it when it leaves. Numbers never go down, and one who finds a higher number than its own has lost the run.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from videomae.core.ancestry import launchers
from videomae.core.files import write_atomic
from videomae.core.processes import ProcessId
from videomae.core.progress import logger
from videomae.run.status import LauncherStatus

FOLDER = "owner"
BEAT_SECONDS = 5.0
_RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


@dataclass(frozen=True)
class LockRecord:
    """What a start says of itself when it takes a run; `leaving` says why it is about to go."""

    host: str
    process: ProcessId  # rank 0
    launchers: tuple[ProcessId, ...]  # above it, the nearest first
    launcher: LauncherStatus
    restarts: tuple[int, ...]  # of the job, as Slurm and torchrun count them
    since: str  # ISO 8601, UTC; for people, since clocks differ
    leaving: str | None = None
    over: bool = False

    @classmethod
    def of_this_process(cls, environment: Mapping[str, str]) -> LockRecord:
        """The claim of the process that asks."""
        return cls(
            host=socket.gethostname(),
            process=ProcessId.this(),
            launchers=tuple(filter(None, (ProcessId.of(launcher.pid) for launcher in launchers()))),
            launcher=LauncherStatus.of(environment),
            restarts=tuple(_count(environment.get(name)) for name in _RESTARTS),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def follows(self, other: LockRecord) -> bool:
        """Whether this is a later start of the other's own job, or comes from the same launcher."""
        same_job = self.launcher == other.launcher and self.launcher.job not in (None, "none")
        return (same_job and self.restarts > other.restarts) or not set(self.launchers).isdisjoint(other.launchers)


@dataclass(frozen=True)
class Held:
    """The highest claim of a run as it was found."""

    number: int
    claim: LockRecord | None  # None: none there, or one that cannot be read
    sign: tuple[int, str] = (0, "")  # another with each sign of life


NONE = Held(0, None)


def read_lock(run: Path) -> Held:
    """Who owns the run, or did last; `NONE` where nobody ever has."""
    number = _highest(run / FOLDER)
    if not number:
        return NONE
    try:
        with _file(run, number).open() as file:  # opening, and not asking for its status, shows what is new under NFS
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:  # a later one has just taken its place
        return Held(number, None)
    try:
        values = json.loads(text)
        claim = LockRecord(
            **{
                **values,
                "process": ProcessId(**values["process"]),
                "launchers": tuple(ProcessId(**process) for process in values["launchers"]),
                "launcher": LauncherStatus(**values["launcher"]),
                "restarts": tuple(values["restarts"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        claim = None
    return Held(number, claim, (touched, text))


def take(run: Path, number: int, claim: LockRecord) -> bool:
    """Make `claim` the one with this number; whether it is the run's now, and nobody else's.

    Raises:
        OSError: the run's folder cannot be written.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / f".{secrets.token_hex(8)}"
    try:
        write_atomic(whole, _text(claim))
        if not _link(whole, _file(run, number)):
            return False
    finally:
        whole.unlink(missing_ok=True)
    if _highest(folder) > number:  # of a folder that was listed before others got on
        _file(run, number).unlink(missing_ok=True)
        return False
    for earlier in range(number - 1, 0, -1):
        try:
            _file(run, earlier).unlink()
        except FileNotFoundError:
            break
    return True


class RunLock:
    """Keeps a claim that was taken, in a thread, until it is released.

    `leaving` gives the reason why this start is about to go, if it is; `lost` is called, in the thread, when another
    start has taken the run: it held this one for dead.
    """

    def __init__(self, run: Path, number: int, claim: LockRecord, *, beat: float = BEAT_SECONDS) -> None:
        self._run, self._number, self._claim, self._beat = run, number, claim, beat
        self.leaving: Callable[[], str | None] = lambda: None
        self.lost: Callable[[], object] = lambda: None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="owner", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Leave the run to others."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join(self._beat)  # a filesystem that hangs is not waited for
        try:
            if _highest(self._run / FOLDER) == self._number:
                write_atomic(_file(self._run, self._number), _text(replace(self._claim, over=True)))
        except OSError as error:  # the disk is full
            logger.debug("the claim is removed, as it cannot be marked: %s", error)
            with suppress(OSError):
                _file(self._run, self._number).unlink()

    def _keep(self) -> None:
        while not self._released.wait(self._beat):
            try:
                if _highest(self._run / FOLDER) > self._number:
                    self._lose()
                    return
                self._touch()
            except OSError:
                continue  # to the next beat

    def _lose(self) -> None:
        taker = read_lock(self._run).claim
        if taker is None or taker.process != self._claim.process:
            logger.critical("another start has taken over %s, which held this one for dead", self._run)
            self.lost()

    def _touch(self) -> None:
        reason = self.leaving()
        if reason != self._claim.leaving:
            self._claim = replace(self._claim, leaving=reason)
            with suppress(OSError):  # a full disk still takes the time below
                write_atomic(_file(self._run, self._number), _text(self._claim))
        os.utime(_file(self._run, self._number))


def _highest(folder: Path) -> int:
    return max((int(file.stem) for file in folder.glob("*.json") if file.stem.isdigit()), default=0)


def _file(run: Path, number: int) -> Path:
    return run / FOLDER / f"{number}.json"


def _text(claim: LockRecord) -> str:
    return json.dumps(asdict(claim), indent=1) + "\n"


def _link(whole: Path, target: Path) -> bool:
    """Give `whole` the name `target` as well, unless there is one of that name."""
    try:
        os.link(whole, target)
    except FileExistsError:
        return whole.stat().st_nlink > 1  # ours after all: NFS may ask again when only the answer was lost
    except OSError:  # a filesystem without links; there the file may be seen half written for a moment
        try:
            with target.open("x") as file:
                file.write(whole.read_text())
        except FileExistsError:
            return False
    return True


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0
