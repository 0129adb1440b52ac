"""Builds a data set's shards: packs the listed sources in parallel, writes tars, manifests and the build's record.

    OUT/<split>/manifest.json  OUT/<split>/000000.tar  OUT/<split>/000000.index.json  OUT/build.json

Everything is written into OUT.building and renamed at the end, so OUT is whole or absent. A build that was killed goes
on after its last finished shard. The same sources and options give the same tars and manifests, whatever the number of
workers and however often it was stopped.
"""

from __future__ import annotations

from videomae.core.files import file_lock
from videomae.data.errors import ShardError
from videomae.data.shards.reader import read_manifest
from videomae.core.errors import UserError

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videomae.core import progress
from videomae.core.config import configclass, to_dict
from videomae.data.build.build_log import BUILD_RECORD, BuildLog, BuildRecord
from videomae.data.shards.manifest import Manifest
from videomae.data.build.packing import pack_all
from videomae.data.build.sources import Listing, Source
from videomae.data.build.split_writer import SplitWriter
from videomae.data.video import EncodingConfig

_SHUFFLE_SEED = 2000  # shards mix the classes: sources are shuffled once, the same way at every build
_LOCK = ".lock"
_log = logging.getLogger(__name__)


class BuildError(UserError):
    """Shards that cannot be built; the message says what to do."""


@configclass
class BuildConfig:
    """What decides the bytes of a build."""

    encoding: EncodingConfig = EncodingConfig()
    samples_per_shard: int = 1000
    bytes_per_shard: int | None = None  # of video; a shard is closed at whichever comes first
    frames_fps: float = 30.0  # the rate that frame folders were extracted at

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1 or (self.bytes_per_shard or 1) < 1 or self.frames_fps <= 0:
            raise UserError("samples_per_shard, bytes_per_shard and frames_fps must be positive")


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """The manifests by split; `reused` says that an equal build stood there already."""

    manifests: dict[str, Manifest]
    reused: bool


def build(
    listing: Listing, out: Path, config: BuildConfig, *, workers: int = 1, overwrite: bool = False
) -> BuildResult:
    """Build the shards of `listing` into `out`, or reuse them where an equal build stands there.

    Raises:
        BuildError: nothing could be read, `out` holds something else, or the disk is full. `out` is then untouched.
    """
    record = BuildRecord.of(to_dict(config), listing)
    if _stands(out, record, overwrite=overwrite):
        return BuildResult(manifests=_manifests(out, listing), reused=True)
    staging = out.with_name(out.name + ".building")
    try:
        with _locked(staging):
            _prepare(staging, record)
            try:
                _write_all(staging, listing, config, workers=workers)
            except (ValueError, OSError):
                shutil.rmtree(staging, ignore_errors=True)
                raise
            (staging / _LOCK).unlink()
            if out.exists():
                shutil.rmtree(out)
            staging.rename(out)
    except OSError as error:
        raise _explain(error, out) from None
    return BuildResult(manifests=_manifests(out, listing), reused=False)


def _stands(out: Path, record: BuildRecord, *, overwrite: bool) -> bool:
    """Whether `out` holds this very build and it is to be kept; what is no build is never replaced."""
    if not out.exists():
        return False
    if not out.is_dir() or (any(out.iterdir()) and not (out / BUILD_RECORD).is_file()):
        raise BuildError(f"{out} exists and is not a build of shards; name another place for OUT")
    if overwrite or not (out / BUILD_RECORD).is_file():
        return False
    differences = BuildRecord.read(out).differences(record)
    if differences:
        raise BuildError(
            f"{out} was built otherwise ({'; '.join(differences)}); pass --overwrite to replace it, or name another OUT"
        )
    return True


@contextlib.contextmanager
def _locked(staging: Path) -> Iterator[None]:
    """Hold the staging folder against a second build into the same place."""
    staging.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(file_lock(staging / _LOCK, blocking=False))
        except BlockingIOError:
            raise BuildError(f"another build is writing {staging}; wait for it, or name another OUT") from None
        yield


def _prepare(staging: Path, record: BuildRecord) -> None:
    """Leave in the staging folder what an earlier, killed run of this very build finished, and nothing else."""
    if (staging / BUILD_RECORD).is_file():
        with contextlib.suppress(ShardError):
            if not BuildRecord.read(staging).differences(record):
                return
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
    record.write(staging)


def _write_all(folder: Path, listing: Listing, config: BuildConfig, *, workers: int) -> None:
    journal = BuildLog(folder)
    chapters = list(journal.read())
    journal.rewrite(chapters)
    total = sum(len(sources) for sources in listing.splits.values())
    splits = {
        split: SplitWriter(folder / split, journal, [chapter for chapter in chapters if chapter.split == split])
        for split in listing.splits
    }
    done = sum(writer.taken for writer in splits.values())
    if done:
        _log.info("going on with a build that was stopped: %d of %d videos are packed", done, total)
    with progress.track("Packing", total=total, done=done) as task:
        for split, writer in splits.items():
            sources = _shuffled(listing.splits[split])
            with writer:
                for result in pack_all(sources[writer.taken :], config.encoding, config.frames_fps, workers=workers):
                    writer.take(result, most_samples=config.samples_per_shard, most_bytes=config.bytes_per_shard)
                    task.advance(1, note=f"{len(writer.skipped)} left out" if writer.skipped else "")
                writer.finish_shard()
            if not writer.samples:
                reasons = "; ".join(f"{left.source}: {left.reason}" for left in writer.skipped[:3])
                raise BuildError(f"none of the {len(sources)} videos of {split}/ could be read: {reasons}")
    for split, writer in splits.items():
        others = {name: other.origins for name, other in splits.items() if name != split}
        writer.write_manifest(listing.classes, others)
    journal.remove()


def _manifests(out: Path, listing: Listing) -> dict[str, Manifest]:
    return {split: read_manifest(out / split) for split in listing.splits}


def _explain(error: OSError, out: Path) -> BuildError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return BuildError(f"no space left for the shards at {out}; free some, or lower --short-side or --fps")
    return BuildError(f"cannot write the shards at {out}: {error}")


def _shuffled(sources: tuple[Source, ...]) -> list[Source]:
    order = np.argsort(np.random.Philox(_SHUFFLE_SEED).random_raw(len(sources)), kind="stable")
    return [sources[place] for place in order]
