"""The staging folder of one checkpoint: visible to all ranks, each of which writes, flushes and hashes its own files.

All ranks call `prepare` and `collect`. `write_part` does not communicate, so it may run in a background thread.
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videomae.core.distributed import World
from videomae.core.errors import listing
from videomae.core.files import sync_path
from videomae.run.checkpoint.manifest import PROGRESS, FileRecord, hash_files

STAGING = ".staging"
VISIBILITY_TIMEOUT = 5.0  # seconds until a file created on one node must be visible on the others
_TOKEN = ".token"
_OVERHEAD = 1 << 17  # bytes per rank besides its tensors: header, its part of the manifest


class SaveError(OSError):
    """A checkpoint could not be written. Every rank raises it; earlier checkpoints are intact."""


@dataclass(frozen=True)
class WrittenPart:
    """One rank's files, or why it has none."""

    files: dict[str, FileRecord]
    fault: str | None = None


@dataclass(frozen=True)
class _Readiness:
    """What one rank needs, and what it sees of the staging folder."""

    bytes: int
    fault: str | None
    sees_folder: bool
    free_bytes: int
    host: str


@dataclass
class Staging:
    """The staging folder of one save of the state at `progress`.

    It holds a random token. A requeued job may start while a node of the previous one, believed dead, still saves; a
    process that finds another token leaves the folder alone.
    """

    folder: Path
    world: World
    progress: Mapping[str, Any]  # has `step`
    _token: str = field(default="", init=False)  # empty before `prepare`

    def prepare(self, measure: Callable[[], int]) -> None:
        """Create the folder anew; `measure` prepares this rank's part and returns its bytes.

        Raises:
            SaveError: a rank is not ready or does not see the folder, or the free space is less than all parts need.
        """
        token = self.world.broadcast_object(self._create() if self.world.is_main else None)
        if isinstance(token, OSError):
            raise SaveError(_message(self.folder, [f"rank 0: {token}"]))
        self._token = token
        ranks: list[_Readiness] = self.world.all_gather_object(self._readiness(measure, token))
        faults = [f"rank {number}: {rank.fault}" for number, rank in enumerate(ranks) if rank.fault]
        blind = [f"rank {number} on {rank.host}" for number, rank in enumerate(ranks) if not rank.sees_folder]
        if blind:
            self.discard()
            raise SaveError(
                f"checkpoint not saved: {blind[0]} does not see {self.folder}, which rank 0 on {ranks[0].host} has "
                "just created; the run directory must be on a filesystem that all nodes share: type run=PATH with one"
            )
        needed, free = sum(rank.bytes + _OVERHEAD for rank in ranks), min(rank.free_bytes for rank in ranks)
        if not faults and needed > free:
            faults.append(f"it takes {needed / 1e6:.1f} MB and there are {free / 1e6:.1f} MB of space left")
        if faults:
            self.discard()
            raise SaveError(_message(self.folder, faults))

    def write_part(self, write: Callable[[Path], object]) -> WrittenPart:
        """Let `write(folder)` write this rank's files, then flush, hash and move them into the staging folder."""
        rank_folder = self.folder / f".rank-{self.world.rank:05d}"
        try:
            self.check_owned()
            rank_folder.mkdir()
            write(rank_folder)
            if self.world.is_main:
                (rank_folder / PROGRESS).write_text(json.dumps(self.progress, indent=1) + "\n")
            files = hash_files(rank_folder)
            self.check_owned()
            for name in files:
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                (rank_folder / name).rename(target)
            shutil.rmtree(rank_folder)
            for folder in {(self.folder / name).parent for name in files}:
                sync_path(folder)
        except Exception as error:  # any error: the other ranks must learn of it instead of waiting
            return WrittenPart({}, f"{type(error).__name__}: {error}")
        return WrittenPart(files)

    def collect(self, part: WrittenPart) -> dict[str, FileRecord]:
        """Return the files of all ranks.

        Raises:
            SaveError: a rank could not write its part, or two wrote the same file; the folder is removed.
        """
        parts: list[WrittenPart] = self.world.all_gather_object(part)
        faults = [f"rank {rank}: {found.fault}" for rank, found in enumerate(parts) if found.fault]
        files: dict[str, FileRecord] = {}
        for rank, found in enumerate(parts):
            faults += [f"rank {rank} wrote {name}, and so did another" for name in found.files if name in files]
            files |= found.files
        if faults:
            self.discard()
            raise SaveError(_message(self.folder, faults))
        return files

    def discard(self) -> None:
        """Remove the folder on rank 0 if it is still this save's."""
        owned = False
        with suppress(OSError):
            owned = self._is_owned()
        if self.world.is_main and owned:
            shutil.rmtree(self.folder, ignore_errors=True)

    def remove_token(self) -> None:
        """Remove the token on rank 0, before the commit."""
        self.check_owned()
        (self.folder / _TOKEN).unlink()

    def check_owned(self) -> None:
        """Check that the folder is still this save's.

        Raises:
            OSError: another start of the run has recreated or committed it.
        """
        if not self._is_owned():
            raise OSError(f"another start of this run has taken the staging folder {self.folder}")

    def _is_owned(self) -> bool:
        try:
            return (self.folder / _TOKEN).read_text() == self._token
        except FileNotFoundError:
            return False

    def _create(self) -> str | OSError:
        token = secrets.token_hex(16)
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            (self.folder / _TOKEN).write_text(token)
        except OSError as error:
            return error
        return token

    def _readiness(self, measure: Callable[[], int], token: str) -> _Readiness:
        size, fault = 0, None
        try:
            size = measure()
        except Exception as error:  # as in `write_part`
            fault = f"{type(error).__name__}: {error}"
        sees_folder = becomes_true(lambda: (self.folder / _TOKEN).read_text() == token)
        free = shutil.disk_usage(self.folder).free if sees_folder else 0
        return _Readiness(size, fault, sees_folder, free, socket.gethostname())


def becomes_true(condition: Callable[[], bool], *, timeout: float = VISIBILITY_TIMEOUT) -> bool:
    """Wait until `condition` holds, up to `timeout` seconds: network filesystems show new files with a delay."""
    end = time.monotonic() + timeout
    while True:
        with suppress(OSError):
            if condition():
                return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)


def _message(folder: Path, faults: list[str]) -> str:
    return (
        f"checkpoint not saved, earlier ones are kept: {listing(faults, 4, separator='; ')}; "
        f"free space below {folder.parent} or move the run, then start the same command again"
    )
