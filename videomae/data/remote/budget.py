"""The room of a node's cache: what lies in it, what is promised to downloads under way, and what goes first.

A download reserves its whole size before it begins, so that all of a node together stay within the limit. Whether one
is under way is seen by the lock of its file, which its process holds and which ends with it, however it dies. Half a
file that a dead download left can be gone on with; until then it counts with what there is of it, and goes before any
whole file. Of these, the one whose next use by any process is farthest away goes first, before it all those that nobody
has announced, the longest unused first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from videomae.core.files import file_lock
from videomae.data.remote.plans import next_uses

PLANS = "plans"
_MARGIN = 2  # batches by which ranks of a run may differ
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between two looks whether a download under way has ended
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Holding:
    """What the cache has of one file: the bytes on its disk or promised to the download that is `busy` with it."""

    path: Path
    bytes: int
    busy: bool
    whole: bool
    used: float  # when last


class CacheBudget:
    """At most `limit` bytes of shards below `folder`, for all the processes of a node."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._warned = False

    @contextlib.contextmanager
    def reserved(self, path: Path, size: int, *, ahead: bool = False) -> Iterator[bool]:
        """While open, there is room for `size` bytes at `path`, whose lock the caller holds; others are removed for it.

        Waits until downloads under way make it possible. Not so if the file is wanted `ahead` of its use: then nothing
        is removed that is needed sooner, and False is given at once where the room would have to come from that.
        """
        pause = _PAUSE
        while not (granted := self._reserve(path, size, ahead=ahead)) and not ahead:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            yield granted
        finally:
            if granted:
                _promise(path).unlink(missing_ok=True)

    def _reserve(self, path: Path, size: int, *, ahead: bool) -> bool:
        with file_lock(self._folder / ".room.lock"):
            others = [holding for holding in _holdings(self._folder) if holding.path != path]
            surplus = sum(holding.bytes for holding in others) + size - self._limit
            if surplus > 0:
                idle = [holding for holding in others if not holding.busy]
                victims = self._victims(idle, surplus, ahead_of=path if ahead else None)
                if not victims:
                    return False
                for victim in victims:  # no download of it can begin meanwhile; who has it open keeps reading it
                    victim.path.unlink(missing_ok=True)
                    _partial(victim.path).unlink(missing_ok=True)
            _promise(path).write_text(str(size))
            return True

    def _victims(self, idle: list[_Holding], surplus: int, *, ahead_of: Path | None) -> list[_Holding]:
        """What to remove for `surplus` more bytes, the first to go first; nothing if that is not enough."""
        needed = next_uses(self._folder / PLANS)
        never = max(needed.values(), default=0) + _MARGIN + 1
        if ahead_of is not None:
            bound = min(needed.get(_planned(ahead_of), never) + _MARGIN, never - 1)
            idle = [holding for holding in idle if needed.get(_planned(holding.path), never) > bound]
        idle.sort(key=lambda each: (each.whole, -needed.get(_planned(each.path), never), each.used))
        victims: list[_Holding] = []
        for holding in idle:
            if surplus <= 0:
                break
            victims.append(holding)
            surplus -= holding.bytes
        if surplus > 0:
            return []
        if ahead_of is None and any(victim.whole and _planned(victim.path) in needed for victim in victims):
            self._warn()
        return victims

    def _warn(self) -> None:
        """Say once that the cache is too small for what is read at a time."""
        if not self._warned:
            _log.warning(
                "%s, of %.3g GB, does not hold the shards that are needed soon, so some are fetched more than once;"
                " raise VIDEOMAE_CACHE_GB",
                self._folder,
                self._limit / 1e9,
            )
        self._warned = True


def lock_of(path: Path) -> Path:
    """The lock that whoever downloads the file at `path` holds."""
    return path.with_name(path.name + ".lock")


def _promise(path: Path) -> Path:
    """The file that says how many bytes a download of `path` will take."""
    return path.with_name(path.name + ".reserved")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _planned(path: Path) -> str:
    """The file at `path` as the plans name it."""
    return f"{path.parent.name}/{path.name}"


def _holdings(folder: Path) -> list[_Holding]:
    """All that lies in the cache, or will; the caller holds the room's lock."""
    paths = set(folder.glob("*/*.tar"))
    paths |= {path.with_suffix("") for kind in ("partial", "reserved") for path in folder.glob(f"*/*.tar.{kind}")}
    found = []
    for path in paths:
        promised = _promised(path)
        whole, part = _stat(path), _stat(_partial(path))
        there = sum(stat.st_size for stat in (whole, part) if stat)
        if whole or part or promised:
            used = max(stat.st_mtime for stat in (whole, part) if stat) if whole or part else 0.0
            bytes = max(there, promised)
            found.append(_Holding(path=path, bytes=bytes, busy=promised > 0, whole=whole is not None, used=used))
    return found


def _promised(path: Path) -> int:
    """How many bytes a living process has reserved for a download of `path`; what a dead one has is given up."""
    promise = _promise(path)
    if not promise.exists():
        return 0
    try:
        with file_lock(lock_of(path), blocking=False):
            promise.unlink(missing_ok=True)
    except BlockingIOError:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(promise.read_text())
    return 0


def _stat(path: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat()
    return None
