"""Build shards: encode the listed sources in parallel, write tars, manifests and the build's record.

    OUT/<split>/manifest.json  OUT/<split>/000000.tar  OUT/<split>/000000.index.json  OUT/build.json

Everything is written to OUT.building and renamed at the end, so OUT is complete or absent. A killed build resumes after
its last finished shard. The same sources and options give the same tars and manifests, for any number of workers and
interruptions.
"""

from __future__ import annotations

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
from videomae.core.errors import UserError
from videomae.core.files import file_lock
from videomae.data.build.build_log import BUILD_RECORD, BuildLog, BuildRecord, read_build_record
from videomae.data.build.packing import pack_all
from videomae.data.build.sources import Listing, Source
from videomae.data.build.split_writer import SplitWriter
from videomae.data.errors import ShardError
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import read_manifest
from videomae.data.video import EncodingConfig

_SHUFFLE_SEED = 2000  # sources are shuffled, so that shards mix the classes; equal in every build
_LOCK = ".lock"
_log = logging.getLogger(__name__)


class BuildError(UserError):
    """Shards that cannot be built."""


@configclass
class BuildConfig:
    """The options that determine the bytes of the shards."""

    encoding: EncodingConfig = EncodingConfig()
    samples_per_shard: int = 1000
    bytes_per_shard: int | None = None  # of video; a shard is closed at whichever limit it reaches first
    frames_fps: float = 30.0  # the frame rate at which frame folders were extracted

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1 or (self.bytes_per_shard or 1) < 1 or self.frames_fps <= 0:
            raise UserError("samples_per_shard, bytes_per_shard and frames_fps must be positive")


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """The manifests by split; `reused` if an equal build existed already."""

    manifests: dict[str, Manifest]
    reused: bool


def build(
    listing: Listing, out: Path, config: BuildConfig, *, workers: int = 1, overwrite: bool = False
) -> BuildResult:
    """Build the shards of `listing` into `out`, or reuse an equal build in `out`.

    Raises:
        BuildError: no source could be read, `out` holds something else, or the disk is full. `out` is unchanged then.
        OSError: a folder cannot be read or written.
    """
    record = BuildRecord.of(to_dict(config), listing)
    if _can_reuse(out, record, overwrite=overwrite):
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
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise BuildError(
            f"no space left for the shards in {out}; free some space, or lower --short-side or --fps"
        ) from None
    return BuildResult(manifests=_manifests(out, listing), reused=False)


def _can_reuse(out: Path, record: BuildRecord, *, overwrite: bool) -> bool:
    """Whether `out` holds an equal build to keep. Raises BuildError if it holds anything that may not be replaced."""
    if not out.exists():
        return False
    if not out.is_dir() or (any(out.iterdir()) and not (out / BUILD_RECORD).is_file()):
        raise BuildError(f"{out} exists and is not a build of shards; choose another OUT")
    if overwrite or not (out / BUILD_RECORD).is_file():
        return False
    differences = read_build_record(out).differences(record)
    if differences:
        raise BuildError(
            f"{out} was built from other options or sources ({'; '.join(differences)}); "
            "pass --overwrite to replace it, or choose another OUT"
        )
    return True


@contextlib.contextmanager
def _locked(staging: Path) -> Iterator[None]:
    """Hold the lock of the staging folder. Raises BuildError if another build holds it."""
    staging.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(file_lock(staging / _LOCK, blocking=False))
        except BlockingIOError:
            raise BuildError(f"another build is writing {staging}; wait for it, or choose another OUT") from None
        yield


def _prepare(staging: Path, record: BuildRecord) -> None:
    """Keep what a killed run of the same build finished, or else empty the staging folder."""
    if (staging / BUILD_RECORD).is_file():
        with contextlib.suppress(ShardError):
            if not read_build_record(staging).differences(record):
                return
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
    record.write(staging)


def _write_all(folder: Path, listing: Listing, config: BuildConfig, *, workers: int) -> None:
    log = BuildLog(folder)
    finished = log.read_finished()
    log.rewrite(finished)
    total = sum(len(sources) for sources in listing.splits.values())
    splits = {
        split: SplitWriter(folder / split, log, [record for record in finished if record.split == split])
        for split in listing.splits
    }
    done = sum(writer.consumed for writer in splits.values())
    if done:
        _log.info("resuming the build: %d of %d videos are packed", done, total)
    with progress.track("Packing", total=total, done=done) as task:
        for split, writer in splits.items():
            sources = _shuffled(listing.splits[split])
            with writer:
                for result in pack_all(sources[writer.consumed :], config.encoding, config.frames_fps, workers=workers):
                    writer.add(result, max_samples=config.samples_per_shard, max_bytes=config.bytes_per_shard)
                    task.advance(1, note=f"{len(writer.skipped)} skipped" if writer.skipped else "")
                writer.finish_shard()
            if not writer.samples:
                reasons = "; ".join(f"{source.source}: {source.reason}" for source in writer.skipped[:3])
                raise BuildError(f"none of the {len(sources)} videos of {split}/ could be read: {reasons}")
    for split, writer in splits.items():
        _warn_of_empty_classes(split, writer, listing)
        others = {name: other.source_by_digest for name, other in splits.items() if name != split}
        writer.write_manifest(listing.classes, others)
    log.remove()


def _warn_of_empty_classes(split: str, writer: SplitWriter, listing: Listing) -> None:
    """Warn of classes of which no listed source could be read."""
    skipped = {source.source for source in writer.skipped}
    listed = {source.class_name for source in listing.splits[split]}
    packed = {source.class_name for source in listing.splits[split] if source.name not in skipped}
    for name in sorted(listed - packed):
        _log.warning("no video of the class %r in %s/ could be read", name, split)


def _manifests(out: Path, listing: Listing) -> dict[str, Manifest]:
    return {split: read_manifest(out / split) for split in listing.splits}


def _shuffled(sources: tuple[Source, ...]) -> list[Source]:
    order = np.argsort(np.random.Philox(_SHUFFLE_SEED).random_raw(len(sources)), kind="stable")
    return [sources[number] for number in order]
