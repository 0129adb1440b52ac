"""Builds a data set's shards: lists the sources, packs them in parallel, writes tars, manifests and the build's record.

    OUT/<split>/manifest.json  OUT/<split>/000000.tar  OUT/<split>/000000.index.json  OUT/build.json

Everything is written beside OUT and renamed at the end, so OUT is whole or absent. The same sources and options give
the same tars and manifests, whatever the number of workers.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import re
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videomae import progress
from videomae.config import configclass, to_dict
from videomae.shards.manifest import Duplicate, LeftOut, Manifest, Shard
from videomae.shards.packing import Packed, pack
from videomae.shards.record import NAME as RECORD
from videomae.shards.record import Record
from videomae.shards.sources import Listing, Source, find
from videomae.shards.writer import ShardWriter
from videomae.video import EncodingConfig

_SHUFFLE_SEED = 2000  # shards mix the classes: sources are shuffled once, the same way at every build
_log = logging.getLogger(__name__)


class BuildError(ValueError):
    """Shards that cannot be built; the message says what to do."""


@configclass
class BuildConfig:
    """What decides the bytes of a build."""

    encoding: EncodingConfig = EncodingConfig()
    samples_per_shard: int = 1000
    unlabelled: bool = False  # take every video below the folder, as one split without classes
    frames_fps: float = 30.0  # the rate that frame folders were extracted at

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1 or self.frames_fps <= 0:
            raise ValueError("samples_per_shard and frames_fps must be positive")


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """The manifests by split; `reused` says that an equal build stood there already."""

    manifests: dict[str, Manifest]
    reused: bool


def build(source: Path, out: Path, config: BuildConfig, *, workers: int = 1, overwrite: bool = False) -> BuildResult:
    """Build the shards of `source` into `out`, or reuse them where an equal build stands there.

    Raises:
        SourceError: the source folder cannot be used.
        BuildError: nothing could be read, `out` holds something else, or the disk is full. `out` is then untouched.
    """
    listing = find(source, unlabelled=config.unlabelled)
    record = Record.of(to_dict(config), source, listing)
    if not overwrite and out.exists() and _matches(out, record):
        manifests = {split: Manifest.read(out / split) for split in listing.splits if (out / split).is_dir()}
        return BuildResult(manifests=manifests, reused=True)
    staging = out.with_name(out.name + ".building")
    try:
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(parents=True)
        manifests = _write_all(staging, listing, config, workers=workers)
        record.write(staging)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    except OSError as error:
        raise _explain(error, out) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return BuildResult(manifests={split: Manifest.read(out / split) for split in manifests}, reused=False)


def _matches(out: Path, record: Record) -> bool:
    """Whether `out` holds this very build; an empty folder does not, anything else is an error."""
    if not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file()):
        raise BuildError(f"{out} exists and is not a build of shards; name another place for OUT")
    if not (out / RECORD).is_file():
        return False
    differences = Record.read(out).differences(record)
    if differences:
        raise BuildError(
            f"{out} was built otherwise ({'; '.join(differences)}); pass --overwrite to replace it, or name another OUT"
        )
    return True


def _explain(error: OSError, out: Path) -> BuildError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return BuildError(f"no space left for the shards at {out}; free some, or lower --short-side or --fps")
    return BuildError(f"cannot write the shards at {out}: {error}")


def _write_all(folder: Path, listing: Listing, config: BuildConfig, *, workers: int) -> list[str]:
    total = sum(len(sources) for sources in listing.splits.values())
    origins: dict[str, dict[str, str]] = {}  # split -> content hash -> source name
    written: dict[str, _Split] = {}
    with progress.track("Packing", total=total) as task:
        for split, sources in listing.splits.items():
            written[split] = _Split.of(folder / split, listing.classes, origins.setdefault(split, {}))
            for result in _packed(_shuffled(sources), config, workers):
                written[split].take(result, config)
                task.advance(1, note=f"{len(written[split].left_out)} left out" if written[split].left_out else "")
            written[split].close_shard()
            if not written[split].shards:
                reasons = "; ".join(f"{left.source}: {left.reason}" for left in written[split].left_out[:3])
                raise BuildError(f"none of the {len(sources)} videos of {split}/ could be read: {reasons}")
    for split, state in written.items():
        state.write_manifest({name: found for name, found in origins.items() if name != split})
    return list(written)


@dataclass(kw_only=True)
class _Split:
    """One split's shards while they are written."""

    folder: Path
    classes: tuple[str, ...]
    origins: dict[str, str]
    keys: dict[str, str]  # key -> content hash
    shards: list[Shard]
    left_out: list[LeftOut]
    writer: ShardWriter | None = None

    @classmethod
    def of(cls, folder: Path, classes: tuple[str, ...], origins: dict[str, str]) -> _Split:
        folder.mkdir()
        return cls(folder=folder, classes=classes, origins=origins, keys={}, shards=[], left_out=[])

    def take(self, result: Packed | LeftOut, config: BuildConfig) -> None:
        if isinstance(result, LeftOut):
            _log.warning("left out %s: %s", result.source, result.reason)
            self.left_out.append(result)
            return
        if self.writer is None:
            self.writer = ShardWriter(self.folder, len(self.shards))
        key = _key(len(self.keys), result.meta.source)
        self.writer.add(key, result.video, result.meta)
        self.keys[key] = result.meta.sha256
        self.origins.setdefault(result.meta.sha256, result.meta.source)
        if self.writer.samples >= config.samples_per_shard:
            self.close_shard()

    def close_shard(self) -> None:
        if self.writer is not None:
            self.shards.append(self.writer.finish())
            self.writer = None

    def write_manifest(self, others: dict[str, dict[str, str]]) -> None:
        duplicates = [
            Duplicate(key=key, other_split=split, other_source=found[digest])
            for key, digest in self.keys.items()
            for split, found in others.items()
            if digest in found
        ]
        Manifest(
            folder=self.folder,
            split=self.folder.name,
            classes=self.classes,
            shards=tuple(self.shards),
            left_out=tuple(sorted(self.left_out, key=lambda left: left.source)),
            duplicates=tuple(duplicates),
        ).write()


def _key(number: int, source: str) -> str:
    """A tar name that says which clip it is: the number keeps it unique, dots would end it."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source).stem)[:48]
    return f"{number:08d}-{stem}"


def _shuffled(sources: tuple[Source, ...]) -> list[Source]:
    order = np.argsort(np.random.Philox(_SHUFFLE_SEED).random_raw(len(sources)), kind="stable")
    return [sources[place] for place in order]


def _packed(sources: list[Source], config: BuildConfig, workers: int) -> Iterator[Packed | LeftOut]:
    """Pack in parallel, in order, with a bounded number of videos in memory."""
    arguments = (config.encoding, config.frames_fps)
    if workers <= 1:
        yield from (pack(source, *arguments) for source in sources)
        return
    waiting: deque[Future[Packed | LeftOut]] = deque()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(pack, source, *arguments))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise BuildError(
                "a worker process died, most likely for lack of memory; pass a smaller --workers"
            ) from None
        finally:
            for future in waiting:
                future.cancel()
