"""Find the latest valid checkpoint: one that all ranks see and that matches its manifest. Ranks share the hashing.

All ranks call every function, which returns, or raises, the same on each.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.core.files import file_sha256
from videomae.core.progress import logger
from videomae.run.checkpoint import manifest
from videomae.run.checkpoint.manifest import MANIFEST, PROGRESS, DamagedError
from videomae.run.checkpoint.staging import VISIBILITY_TIMEOUT, becomes_true
from videomae.run.checkpoint.store import Checkpoint, quarantine, step_names, step_of

_ADVICE = "the run directory must be on a filesystem that all nodes share: type run=PATH with one"


class CheckpointError(UserError):
    """No checkpoint can be used as requested; the message says what was found and what to type."""


@dataclass(frozen=True)
class SearchResult:
    """The latest valid checkpoint, and a line on each later one that is not valid."""

    checkpoint: Checkpoint | None
    skipped: tuple[str, ...]


def check_shared_filesystem(folder: Path, *, world: World) -> None:
    """Check at the start of a run, rather than at its first save, that all nodes see the same `folder`.

    Raises:
        CheckpointError: another rank does not see a file that rank 0 creates.
    """
    if world.size == 1:
        return
    probe = folder / f".shared-{world.broadcast_object(secrets.token_hex(8))}"

    def create() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()

    world.main_only(create)
    ranks = world.all_gather_object((socket.gethostname(), becomes_true(probe.exists)))
    world.main_only(lambda: probe.unlink(missing_ok=True))
    blind = [f"rank {rank} on {host}" for rank, (host, sees) in enumerate(ranks) if not sees]
    if blind:
        raise CheckpointError(
            f"{blind[0]} does not see the file that rank 0 on {ranks[0][0]} has created in {folder}; {_ADVICE}"
        )


def find_latest(folder: Path, *, world: World, at_most: int | None = None, read_only: bool = False) -> SearchResult:
    """Return the latest valid checkpoint below `folder`, of step `at_most` or earlier.

    Later damaged ones are renamed to `damaged-...`, unless `read_only`: the folder is another run's.

    Raises:
        CheckpointError: the ranks do not see the same checkpoints.
    """
    skipped = []
    for name in reversed(_common_names(folder, world)):
        if at_most is not None and step_of(name) > at_most:
            continue
        fault = verify(folder / name, world=world)
        if fault is None:
            return SearchResult(read_checkpoint(folder / name, world=world), tuple(skipped))
        skipped.append(f"{name}: {fault}")
        moved = None if read_only else world.run_on_main(lambda name=name: quarantine(folder / name).name)
        if world.is_main:
            logger.warning("checkpoint %s is not used: %s%s", folder / name, fault, f"; now {moved}" if moved else "")
    return SearchResult(None, tuple(skipped))


def verify(folder: Path, *, world: World) -> str | None:
    """Return how the checkpoint at `folder` differs from its manifest, or None. Each rank hashes its part of the files.

    Only rank 0 compares names and sizes: a stat of each file from each of a thousand ranks would overload the
    filesystem.
    """
    fault = None
    try:
        files = manifest.read_file_manifest(folder)
        if world.is_main:
            manifest.check_listing(folder, files)
        manifest.check_contents(folder, files, manifest.assign_files(files, rank=world.rank, size=world.size))
    except (DamagedError, OSError) as error:
        fault = str(error)
    faults = [found for found in world.all_gather_object(fault) if found]
    return faults[0] if faults else None


def read_checkpoint(folder: Path, *, world: World) -> Checkpoint:
    """Return the verified checkpoint at `folder`; rank 0 reads its progress."""
    progress = json.loads((folder / PROGRESS).read_text()) if world.is_main else None
    return Checkpoint(folder, world.broadcast_object(progress))


def _common_names(folder: Path, world: World) -> list[str]:
    """Return the checkpoint names that every rank sees, with the same manifests."""
    end = time.monotonic() + VISIBILITY_TIMEOUT
    while True:
        ranks = world.all_gather_object((socket.gethostname(), _listing(folder)))
        if all(listing == ranks[0][1] for _, listing in ranks):
            return [name for name, _ in ranks[0][1]]
        if world.broadcast_object(time.monotonic() >= end):
            break
        time.sleep(0.2)
    differing = next(rank for rank, (_, listing) in enumerate(ranks) if listing != ranks[0][1])
    (host, listing), (other_host, other) = ranks[0], ranks[differing]
    raise CheckpointError(
        f"the processes see different checkpoints in {folder}: rank 0 on {host} sees {_shorten(listing)}, rank "
        f"{differing} on {other_host} sees {_shorten(other)}; {_ADVICE}, or copy the checkpoints there"
    )


def _listing(folder: Path) -> list[tuple[str, str | None]]:
    listing = []
    for name in step_names(folder):
        try:
            listing.append((name, file_sha256(folder / name / MANIFEST)))
        except OSError:
            listing.append((name, None))
    return listing


def _shorten(listing: list[tuple[str, str | None]]) -> str:
    names = [name if sha256 else f"{name} without a manifest" for name, sha256 in listing]
    if len(names) > 3:
        names = [*names[:1], f"{len(names) - 2} more", names[-1]]
    return ", ".join(names) or "none"
