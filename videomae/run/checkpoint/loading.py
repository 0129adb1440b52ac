"""Finding a checkpoint that all ranks see and that holds what was written; the work of hashing is shared among them.

Every function is called by all ranks and gives, or raises, the same on each.
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
from videomae.run.checkpoint.staging import PATIENCE, appears
from videomae.run.checkpoint.store import Checkpoint, set_aside, step_names, step_of

_SHARE = "the run's directory must lie on a filesystem that all nodes share: type run=PATH with one"


class CheckpointError(UserError):
    """No checkpoint can be used as asked; the message says what was looked at and what to type."""


@dataclass(frozen=True)
class Found:
    """What a search came to: the newest whole checkpoint, and a line on each that was passed over."""

    checkpoint: Checkpoint | None
    passed_over: tuple[str, ...]


def require_shared(folder: Path, *, world: World) -> None:
    """Find out at the start of a run, and not at its first save, that the nodes do not see the same `folder`.

    Raises:
        CheckpointError: a file that rank 0 makes does not show up on another rank.
    """
    if world.size == 1:
        return
    mark = folder / f".shared-{world.broadcast_object(secrets.token_hex(8))}"

    def make() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()

    world.main_only(make)
    seen = world.all_gather_object((socket.gethostname(), appears(mark.exists)))
    world.main_only(lambda: mark.unlink(missing_ok=True))
    blind = [f"rank {rank} on {host}" for rank, (host, sees) in enumerate(seen) if not sees]
    if blind:
        raise CheckpointError(
            f"{blind[0]} does not see the file that rank 0 on {seen[0][0]} has made in {folder}; {_SHARE}"
        )


def newest(folder: Path, *, world: World, at_most: int | None = None, keep_damaged: bool = False) -> Found:
    """The newest whole checkpoint below `folder`, of step `at_most` or earlier.

    Damaged ones that are newer are renamed to `damaged-...`, unless `keep_damaged` (the folder is another run's).

    Raises:
        CheckpointError: the ranks do not see the same checkpoints.
    """
    names = _agreed_names(folder, world)
    passed_over = []
    for name in reversed(names):
        if at_most is not None and step_of(name) > at_most:
            continue
        fault = verify(folder / name, world=world)
        if fault is None:
            return Found(read_checkpoint(folder / name, world=world), tuple(passed_over))
        passed_over.append(f"{name}: {fault}")
        aside = None if keep_damaged else world.run_on_main(lambda name=name: set_aside(folder / name).name)
        if world.is_main:
            logger.warning("checkpoint %s is not used: %s%s", folder / name, fault, f"; now {aside}" if aside else "")
    return Found(None, tuple(passed_over))


def verify(folder: Path, *, world: World) -> str | None:
    """What is wrong with the checkpoint at `folder`, or None; each rank hashes its share, rank 0 looks at the names."""
    fault = None
    try:
        files = manifest.read_file_manifest(folder)
        if (
            world.is_main
        ):  # from a thousand ranks, asking for a thousand files each would be an attack on the filesystem
            manifest.check_listing(folder, files)
        manifest.check_contents(folder, files, manifest.share_of(files, rank=world.rank, size=world.size))
    except (DamagedError, OSError) as error:
        fault = str(error)
    faults = [found for found in world.all_gather_object(fault) if found]
    return faults[0] if faults else None


def read_checkpoint(folder: Path, *, world: World) -> Checkpoint:
    """The verified checkpoint at `folder`."""
    return Checkpoint(
        folder, world.broadcast_object(json.loads((folder / PROGRESS).read_text()) if world.is_main else None)
    )


def _agreed_names(folder: Path, world: World) -> list[str]:
    """The names of the checkpoints that every rank sees, with the same manifests."""
    ends = time.monotonic() + PATIENCE
    while True:
        seen = world.all_gather_object((socket.gethostname(), _listing(folder)))
        if all(listing == seen[0][1] for _, listing in seen):
            return [name for name, _ in seen[0][1]]
        if world.broadcast_object(time.monotonic() >= ends):
            break
        time.sleep(0.2)
    odd = next(rank for rank, (_, listing) in enumerate(seen) if listing != seen[0][1])
    (here, ours), (there, theirs) = seen[0], seen[odd]
    raise CheckpointError(
        f"the processes see different checkpoints in {folder}: rank 0 on {here} sees {_spell(ours)}, rank {odd} on "
        f"{there} sees {_spell(theirs)}; {_SHARE}, or copy the checkpoints there"
    )


def _listing(folder: Path) -> list[tuple[str, str | None]]:
    """Names and the digests of their manifests."""
    listing = []
    for name in step_names(folder):
        try:
            listing.append((name, file_sha256(folder / name / MANIFEST)))
        except OSError:
            listing.append((name, None))
    return listing


def _spell(listing: list[tuple[str, str | None]]) -> str:
    names = [name if digest else f"{name} without a manifest" for name, digest in listing]
    if len(names) > 3:
        names = [*names[:1], f"{len(names) - 2} more", names[-1]]
    return ", ".join(names) or "none"
