"""One checkpoint in the making: a folder that all ranks see, into which each writes, flushes and hashes its own files.

`prepare` and `agree` are called by all ranks. `fill` talks to nobody, so it may run in a thread beside the training.
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
from videomae.core.files import sync_path
from videomae.run.checkpoint import manifest
from videomae.run.checkpoint.manifest import PROGRESS, FileRecord

STAGING = ".staging"
PATIENCE = 5.0  # seconds in which a file made on one node must show up on the others
_TOKEN = ".token"
_MARGIN = 1 << 17  # bytes of a rank beside its tensors: header, its part of the manifest


class SaveError(OSError):
    """A checkpoint that could not be written; every rank raises it, and earlier checkpoints are whole."""


@dataclass(frozen=True)
class Filled:
    """What became of one rank's part: its files, or why there are none."""

    files: dict[str, FileRecord]
    fault: str | None = None


@dataclass(frozen=True)
class _Offer:
    """What one rank has to write, and what it sees of the folder."""

    bytes: int
    fault: str | None
    sees: bool
    free: int
    host: str


@dataclass
class Staging:
    """The staging folder of one save, of the state at `progress`.

    A token in it says whose it is: a requeued job may start while a node that was given up for dead still saves. Who
    finds another's token there touches nothing.
    """

    folder: Path
    world: World
    progress: Mapping[str, Any]  # has `step`
    _token: str = field(default="", init=False)  # empty until it is made

    def prepare(self, measure: Callable[[], int]) -> None:
        """Make the folder anew; `measure` readies this rank's part and gives its bytes.

        Raises:
            SaveError: a rank is not ready or does not see the folder, or there is too little space for all parts.
        """
        token = self.world.broadcast_object(self._make() if self.world.is_main else None)
        if isinstance(token, OSError):
            raise SaveError(_message(self.folder, [f"rank 0: {token}"]))
        self._token = token
        offers: list[_Offer] = self.world.all_gather_object(self._offer(measure, token))
        complaints = [f"rank {rank}: {offer.fault}" for rank, offer in enumerate(offers) if offer.fault]
        blind = [f"rank {rank} on {offer.host}" for rank, offer in enumerate(offers) if not offer.sees]
        if blind:
            self.discard()
            raise SaveError(
                f"checkpoint not saved: {blind[0]} does not see {self.folder}, which rank 0 on {offers[0].host} has "
                "just made; the run's directory must lie on a filesystem that all nodes share: type run=PATH with one"
            )
        needed, free = sum(offer.bytes + _MARGIN for offer in offers), min(offer.free for offer in offers)
        if not complaints and needed > free:
            complaints.append(f"it takes {needed / 1e6:.1f} MB and there are {free / 1e6:.1f} MB of space left")
        if complaints:
            self.discard()
            raise SaveError(_message(self.folder, complaints))

    def fill(self, write: Callable[[Path], None]) -> Filled:
        """Let `write(folder)` write this rank's files, then flush, hash and move them into the staging folder."""
        own = self.folder / f".rank-{self.world.rank:05d}"
        try:
            self.check()
            own.mkdir()
            write(own)
            if self.world.is_main:
                (own / PROGRESS).write_text(json.dumps(self.progress, indent=1) + "\n")
            files = manifest.describe(own)
            self.check()
            for name in files:
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                (own / name).rename(target)
            shutil.rmtree(own)
            for folder in {(self.folder / name).parent for name in files}:
                sync_path(folder)
        except Exception as error:  # whatever it is, the other ranks must hear of it and not wait for ever
            return Filled({}, f"{type(error).__name__}: {error}")
        return Filled(files)

    def agree(self, filled: Filled) -> dict[str, FileRecord]:
        """The files of all ranks.

        Raises:
            SaveError: a rank could not write its part, or two wrote the same file; the folder is gone.
        """
        parts: list[Filled] = self.world.all_gather_object(filled)
        complaints = [f"rank {rank}: {part.fault}" for rank, part in enumerate(parts) if part.fault]
        files: dict[str, FileRecord] = {}
        for rank, part in enumerate(parts):
            complaints += [f"rank {rank} wrote {name}, and another too" for name in part.files if name in files]
            files |= part.files
        if complaints:
            self.discard()
            raise SaveError(_message(self.folder, complaints))
        return files

    def discard(self) -> None:
        """Remove what there is of ours, on rank 0."""
        ours = False
        with suppress(OSError):
            ours = self._ours()
        if self.world.is_main and ours:
            shutil.rmtree(self.folder, ignore_errors=True)

    def seal(self) -> None:
        """Remove what is not part of a checkpoint; on rank 0, before the commit.

        Raises:
            OSError: as in `check`.
        """
        self.check()
        (self.folder / _TOKEN).unlink()

    def check(self) -> None:
        """Make sure that the folder is still ours.

        Raises:
            OSError: another start of the run has made it anew, or has committed it.
        """
        if not self._ours():
            raise OSError(f"another start of this run has taken the staging folder {self.folder}")

    def _ours(self) -> bool:
        try:
            return (self.folder / _TOKEN).read_text() == self._token
        except FileNotFoundError:
            return False

    def _make(self) -> str | OSError:
        token = secrets.token_hex(16)
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            (self.folder / _TOKEN).write_text(token)
        except OSError as error:
            return error
        return token

    def _offer(self, measure: Callable[[], int], token: str) -> _Offer:
        size, fault = 0, None
        try:
            size = measure()
        except Exception as error:  # as in `fill`
            fault = f"{type(error).__name__}: {error}"
        sees = appears(lambda: (self.folder / _TOKEN).read_text() == token)
        free = shutil.disk_usage(self.folder).free if sees else 0
        return _Offer(size, fault, sees, free, socket.gethostname())


def appears(look: Callable[[], bool], *, patience: float = PATIENCE) -> bool:
    """Whether `look` says yes within `patience` seconds: network filesystems show a new file a little late."""
    ends = time.monotonic() + patience
    while True:
        try:
            if look():
                return True
        except OSError:
            pass
        if time.monotonic() >= ends:
            return False
        time.sleep(0.1)


def _message(folder: Path, complaints: list[str]) -> str:
    shown = "; ".join(complaints[:4]) + (f"; and {len(complaints) - 4} more" if len(complaints) > 4 else "")
    return (
        f"checkpoint not saved, earlier ones are kept: {shown}; "
        f"free space below {folder.parent} or move the run, then start the same command again"
    )
