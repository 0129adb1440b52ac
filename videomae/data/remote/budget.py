"""The disk budget of a node's shard cache: space accounting, reservations for downloads, and eviction.

A download reserves its full size before it starts, so all downloads of a node together stay within the limit. The
downloading process holds the lock of its file; the lock is released when the process ends, however it ends, and so
shows whether the download is still active. A partial file of a dead download can be resumed. Until then it counts with
its size on disk.

Partial files are evicted before complete files. Within each group, files without an announced next use go first, the
least recently used ones before the others, followed by the files whose next use by any process is farthest away.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from videomae.core.files import file_lock, write_json

PLANS = "plans"  # the folder of all plans, in that of the cache
_MARGIN = 2  # batches by which the ranks of a run may be apart
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between checks for the end of an active download
_numbers = itertools.count()
_log = logging.getLogger(__name__)


class Plan:
    """The batches until one process needs each file of one cache folder; it rewrites them as it advances."""

    def __init__(self, plans: Path, folder: str) -> None:
        self._folder = folder
        self._file = plans / f"{os.getpid()}-{next(_numbers)}-{folder}@{socket.gethostname()}.json"

    def publish_plan(self, soon: Mapping[str, int]) -> None:
        """Publish the number of batches until each file is needed next. Replaces the previous plan."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._file, {f"{self._folder}/{name}": batches for name, batches in soon.items()})

    def withdraw(self) -> None:
        """Remove the plan: no file is needed any more."""
        self._file.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class _Holding:
    """The space of one file in the cache: bytes on disk, or bytes reserved by an active (`busy`) download."""

    path: Path
    bytes: int
    busy: bool
    whole: bool
    used: float  # Unix time of the last use, in seconds


class CacheBudget:
    """Limit the shards below `folder` to `limit` bytes, across all processes of a node."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._warned = False

    @contextlib.contextmanager
    def reserved(self, path: Path, size: int, *, ahead: bool = False) -> Iterator[bool]:
        """Reserve `size` bytes for `path` inside the context, and evict other files if necessary.

        The caller holds the lock of `path`. The call waits for active downloads to end if they occupy the space. With
        `ahead=True` (a prefetch) it neither waits nor evicts files that are needed sooner than `path`; it yields False
        at once if the other files do not free enough space.
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
                for victim in victims:  # no download of it can start now; open descriptors stay readable
                    victim.path.unlink(missing_ok=True)
                    _partial(victim.path).unlink(missing_ok=True)
            _promise(path).write_text(str(size))
            return True

    def _victims(self, idle: list[_Holding], surplus: int, *, ahead_of: Path | None) -> list[_Holding]:
        """Return the files to evict to free `surplus` bytes, in eviction order, or nothing if that is too little."""
        needed = _next_uses(self._folder / PLANS)
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
        """Warn once that the cache is smaller than the set of shards in use."""
        if not self._warned:
            _log.warning(
                "%s, of %.3g GB, does not hold the shards that are needed soon, so some are fetched more than once;"
                " raise VIDEOMAE_CACHE_GB",
                self._folder,
                self._limit / 1e9,
            )
        self._warned = True


def lock_of(path: Path) -> Path:
    """Return the path of the lock that is held during a download of `path`."""
    return path.with_name(path.name + ".lock")


def _promise(path: Path) -> Path:
    """Return the path of the file that stores the number of bytes reserved for a download of `path`."""
    return path.with_name(path.name + ".reserved")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _planned(path: Path) -> str:
    """Return the name of the file at `path` in the plans."""
    return f"{path.parent.name}/{path.name}"


def _holdings(folder: Path) -> list[_Holding]:
    """Return all files that are in the cache or are being downloaded. The caller holds the lock of the budget."""
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
    """Return the bytes that a live process has reserved for a download of `path`, and drop a dead reservation."""
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


def _next_uses(plans: Path) -> dict[str, int]:
    """Return, for each planned file, the number of batches until any process needs it.

    Removes the plans of dead processes of this host.
    """
    needed: dict[str, int] = {}
    for plan in plans.glob("*.json"):
        process, _, host = plan.stem.partition("@")
        if host == socket.gethostname() and not Path(f"/proc/{process.partition('-')[0]}").exists():
            plan.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError, ValueError, AttributeError, TypeError):  # gone, or not a plan
            for name, batches in json.loads(plan.read_text()).items():
                needed[name] = min(needed.get(name, batches), batches)
    return needed
